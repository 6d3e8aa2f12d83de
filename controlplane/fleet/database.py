"""The database as the fleet sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from controlplane.fleet.data_plane import Session
from controlplane.store.fleet.reports import FleetReport


class FleetDatabase(Protocol):
    """Where control planes keep what data planes report.

    `OwnDatabase` belongs to a single control plane, `SharedDatabase` to several. Every method
    raises `errors.Unavailable` when the database fails.
    """

    async def claim(self, data_plane_id: str) -> Session:
        """Number a new stream of a data plane. Streams that it had before are superseded."""

    async def put(self, reports: Sequence[FleetReport]) -> None:
        """Keep reports of this control plane's streams."""

    async def catch_up(self) -> None:
        """Learn what other control planes have committed or reported before this call."""

    async def run(self, oldest_in_use: Callable[[], int | None]) -> None:
        """Follow other control planes. Ends by being cancelled.

        Args:
            oldest_in_use: The oldest catalog revision that a data plane is being sent here; None:
                none is.
        """

    async def leave(self) -> None:
        """This process ends: its streams are no longer connected."""
