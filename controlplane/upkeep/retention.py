"""Removes the snapshots that are not kept any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from controlplane.errors import Unavailable
from controlplane.store.retention import Retention

INTERVAL_S = 60.0
"""Seconds between two runs."""

_log = structlog.get_logger("controlplane.upkeep.retention")


class CompactingStore(Protocol):
    """The part of the store that removes snapshots."""

    async def compact(self, retention: Retention, oldest_in_use: int | None) -> int:
        """Remove some rows that no kept snapshot needs. Returns how many; 0: there were none."""


async def run_compaction(
    store: CompactingStore,
    retention: Retention,
    oldest_in_use: Callable[[], int | None],
    *,
    interval_s: float = INTERVAL_S,
) -> None:
    """Remove snapshots that are not kept, in small transactions, until cancelled.

    Args:
        store: Holds the snapshots.
        retention: Which snapshots are kept.
        oldest_in_use: The oldest catalog revision that this process is sending to a data plane.
        interval_s: Between two runs.
    """
    while True:
        removed = 0
        try:
            while count := await store.compact(retention, oldest_in_use()):
                removed += count
                # Waiting catalog changes take their turn first.
                await asyncio.sleep(0)
        except Unavailable:
            _log.warning("compaction_stopped", retry_s=interval_s)
        if removed:
            _log.info("compacted", rows=removed)
        await asyncio.sleep(interval_s)
