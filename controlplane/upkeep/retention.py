"""The task that lets go of snapshots that are not kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from controlplane.errors import Unavailable
from controlplane.store.retention import Retention

INTERVAL_S = 60.0

_log = structlog.get_logger("controlplane.upkeep.retention")


class CompactingStore(Protocol):
    """The part of the store that lets go of snapshots."""

    async def compact(self, retention: Retention, oldest_in_use: int | None) -> int:
        """Remove a few things that no kept snapshot needs; how many. 0: there were none."""


async def run_compaction(
    store: CompactingStore,
    retention: Retention,
    oldest_in_use: Callable[[], int | None],
    *,
    interval_s: float = INTERVAL_S,
) -> None:
    """Let go of what is not kept, a small transaction at a time. Ends by being cancelled.

    Args:
        store: Where snapshots are.
        retention: Which are kept.
        oldest_in_use: The oldest catalog revision that a data plane is being sent by this process.
        interval_s: Between two looks.
    """
    while True:
        removed = 0
        try:
            while some := await store.compact(retention, oldest_in_use()):
                removed += some
                # Writers that wait go first.
                await asyncio.sleep(0)
        except Unavailable:
            _log.warning("compaction_stopped", retry_s=interval_s)
        if removed:
            _log.info("compacted", rows=removed)
        await asyncio.sleep(interval_s)
