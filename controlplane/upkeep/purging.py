"""Deletes for good what was deleted long enough ago. Readers see none of it from its purge time on,
however late."""

from __future__ import annotations

import asyncio

import structlog

from controlplane import errors
from controlplane.store.store import Store

INTERVAL_S = 60.0
"""Between two looks. Nobody waits for it: it only gives room back."""

_BATCH = 100
"""Resources of one transaction, so that no writer waits long for this one."""

_log = structlog.get_logger("controlplane.upkeep.purging")


async def purge_for_ever(store: Store, *, interval_s: float = INTERVAL_S) -> None:
    """Purge what has expired, now and every `interval_s`, until cancelled."""
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
