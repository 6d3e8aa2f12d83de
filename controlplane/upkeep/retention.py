"""Which snapshots are kept, and the task that lets go of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import structlog

from controlplane.errors import Unavailable

INTERVAL_S = 60.0

SNAPSHOTS_MIN = 100
"""Control planes tell each other every 2 s which snapshots they are sending: so many commits may come between."""

_log = structlog.get_logger("controlplane.upkeep.retention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """A snapshot is kept while it is one of the newest or young enough, and while a data plane is being sent it."""

    snapshots: int = 1000
    """The newest so many are kept, whatever their age."""
    age: timedelta = timedelta(days=30)
    """Those younger than this are kept, however many."""


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
