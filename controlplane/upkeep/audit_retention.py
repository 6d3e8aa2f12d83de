"""Deletes audit events that are older than the operator wants to keep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from controlplane import errors

INTERVAL_S = 3600.0
"""Seconds between two runs. Retention is given in days."""

_BATCH_EVENTS = 500
"""Events deleted in one transaction: some milliseconds, for which SQLite has no other writer."""

_log = structlog.get_logger("controlplane.upkeep.audit_retention")


class AuditStore(Protocol):
    """The part of the store that holds audit events."""

    async def delete_audit_events(self, *, before: datetime, limit: int) -> int:
        """Delete up to `limit` of the oldest events from before this time. Returns how many."""


async def run(
    store: AuditStore, retention: timedelta, *, now: Callable[[], datetime], interval_s: float = INTERVAL_S
) -> None:
    """Delete expired events every `interval_s`, until cancelled.

    Each control plane on a database may do so.

    Args:
        store: Holds the events.
        retention: Events older than this are deleted.
        now: The time in UTC, aware.
        interval_s: Between two runs.
    """
    while True:
        try:
            await delete_expired(store, retention, now=now)
        except errors.Unavailable as error:
            _log.warning("audit_retention_failed", reason=error.reason)
        await asyncio.sleep(interval_s)


async def delete_expired(store: AuditStore, retention: timedelta, *, now: Callable[[], datetime]) -> int:
    """Delete the events that are older than `retention`. Returns how many.

    Raises:
        errors.Unavailable: the database failed.
    """
    deleted = 0
    while count := await store.delete_audit_events(before=now() - retention, limit=_BATCH_EVENTS):
        deleted += count
    if deleted:
        _log.info("audit_events_expired", events=deleted, retention_days=retention.days)
    return deleted
