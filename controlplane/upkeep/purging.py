"""Deletes expired resources for good.

Readers do not see a resource from its purge time on, however late the purge is.
"""

from __future__ import annotations

import asyncio

import structlog

from controlplane import errors
from controlplane.store.store import Store

INTERVAL_S = 60.0
"""Seconds between two runs. A purge only frees space, so nothing waits for it."""

_BATCH = 100
"""Resources in one transaction: few, because SQLite has one writer at a time."""

_log = structlog.get_logger("controlplane.upkeep.purging")


async def purge_for_ever(store: Store, *, interval_s: float = INTERVAL_S) -> None:
    """Purge expired resources, now and every `interval_s`, until cancelled."""
    while True:
        try:
            purged = await store.purge_expired(_BATCH)
        except errors.Unavailable as error:
            _log.warning("purge_failed", error=error.message, exc_info=error.__cause__)
            purged = 0
        if purged:
            _log.info("purged", resources=purged)
        if purged < _BATCH:
            await asyncio.sleep(interval_s)
