"""The fleet of a control plane that has its database to itself."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

from controlplane.catalog.domain import DataPlaneRecord
from controlplane.fleet.data_plane import Session
from controlplane.store.fleet.reports import FleetReport


class RecordStore(Protocol):
    """The part of the store that keeps records of data planes."""

    async def upsert_data_plane(self, *records: DataPlaneRecord) -> None:
        """Keep all of `records`, or none."""

    async def get_data_plane(self, data_plane_id: str) -> DataPlaneRecord | None:
        """The record of a data plane; None: it has never connected."""


class OwnDatabase:
    """A `FleetDatabase` that no other control plane uses: nothing is to be learned from it."""

    def __init__(self, records: RecordStore) -> None:
        """
        Args:
            records: Where records are kept.
        """
        self._records = records
        self._sessions = itertools.count(1)

    async def claim(self, data_plane_id: str) -> Session:
        """Number a new stream of a data plane."""
        return Session(next(self._sessions))

    async def put(self, reports: Sequence[FleetReport]) -> None:
        """Keep the records; statuses are for other control planes.

        Raises:
            Unavailable: the database failed.
        """
        await self._records.upsert_data_plane(*(report.record for report in reports))

    async def catch_up(self) -> None:
        """Nothing is written by others."""

    async def run(self, oldest_in_use: Callable[[], int | None]) -> None:
        """Do nothing until cancelled."""
        await asyncio.Event().wait()

    async def leave(self) -> None:
        """There is no other control plane."""
