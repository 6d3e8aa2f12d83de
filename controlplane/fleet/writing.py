"""Writes what changes about data planes to the database, behind the streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from controlplane.fleet.changed import Changed
from controlplane.fleet.state import FleetState
from controlplane.store.fleet.reports import FleetReport

SINGLE_FAILURES_MAX = 3
"""Reports of a failed write that may fail on their own before the database counts as away."""

_log = structlog.get_logger("controlplane.fleet.writing")


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingSettings:
    """How often the database is written."""

    pause_s: float = 0.0
    """Between two writes: changes meanwhile are written together. Seconds."""
    retry_s: float = 1.0
    """Wait after a write that failed. Seconds."""
    reports_per_write: int = 1
    """Data planes whose reports are written in a single transaction."""


class ReportStore(Protocol):
    """Where reports are written."""

    async def put(self, reports: Sequence[FleetReport]) -> None:
        """Keep these reports.

        Raises:
            Unavailable: the database failed.
        """


class FleetWriter:
    """The write-behind queue of the fleet. `run` must be running.

    Streams and callers go by the state in memory; a data plane that changes often is written with
    its newest report only.
    """

    def __init__(
        self, state: FleetState, changed: Changed, store: ReportStore, settings: WritingSettings | None = None
    ) -> None:
        """
        Args:
            state: Has the reports.
            changed: Notified when `state` changes.
            store: Where reports are written.
            settings: How often.
        """
        self._state = state
        self._changed = changed
        self._store = store
        self._settings = settings or WritingSettings()
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Write reports as they come. Ends by being cancelled."""
        while True:
            while not self._state.has_unwritten:
                await self._changed.wait()
            if await self.flush():
                await asyncio.sleep(self._settings.pause_s)
            else:
                await asyncio.sleep(self._settings.retry_s)

    async def flush(self) -> bool:
        """Write all reports that are due. Returns whether the database has them all.

        A report that the database refuses is put last, so that it holds up no other.
        """
        while True:
            async with self._writing:
                reports = self._state.take_reports(self._settings.reports_per_write)
                left = await self._write(reports) if reports else ()
                self._state.not_written(left)
            if left or not reports:
                return not left

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Write no report within the block: it would bring back a data plane that is removed."""
        async with self._writing:
            yield

    async def _write(self, reports: Sequence[FleetReport]) -> Sequence[FleetReport]:
        """Write reports together, or else one by one.

        Returns:
            Those that are not written: first those that were not tried alone.
        """
        if await self._put(reports):
            return ()
        refused: list[FleetReport] = []
        for number, report in enumerate(reports, start=1):
            # A report that was alone already has failed alone.
            if len(reports) == 1 or not await self._put((report,)):
                refused.append(report)
            if len(refused) == SINGLE_FAILURES_MAX:
                return [*reports[number:], *refused]
        return refused

    async def _put(self, reports: Sequence[FleetReport]) -> bool:
        try:
            await self._store.put(reports)
        except Exception as error:
            first = reports[0].record.id
            _log.warning("fleet_reports_not_written", data_planes=len(reports), first=first, error=type(error).__name__)
            return False
        self._state.written(reports)
        return True
