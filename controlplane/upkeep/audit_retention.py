"""Deletes audit events that are older than the operator wants to keep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
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


class Backlog:
    """How far the deletion of audit events is behind."""

    def __init__(
        self, oldest: Callable[[], Awaitable[datetime | None]], retention: timedelta, *, now: Callable[[], datetime]
    ) -> None:
        """
        Args:
            oldest: Finds the time of the oldest event; None: there is none.
            retention: How long events are kept.
            now: The time in UTC, aware.
        """
        self._find_oldest = oldest
        self._retention = retention
        self._now = now
        self._oldest: datetime | None = None

    async def look(self) -> None:
        """Find the oldest event.

        Raises:
            errors.Unavailable: the database failed.
        """
        self._oldest = await self._find_oldest()

    def overdue_s(self) -> float:
        """For how long the oldest event should be deleted, as of the last look. Seconds; 0: it is
        not."""
        if self._oldest is None:
            return 0.0
        return max(0.0, (self._now() - self._oldest - self._retention).total_seconds())


async def run(
    store: AuditStore,
    retention: timedelta,
    *,
    now: Callable[[], datetime],
    backlog: Backlog,
    interval_s: float = INTERVAL_S,
) -> None:
    """Delete expired events every `interval_s`, until cancelled.

    Each control plane on a database may do so.

    Args:
        store: Holds the events.
        retention: Events older than this are deleted.
        now: The time in UTC, aware.
        backlog: Looks after each run.
        interval_s: Between two runs.
    """
    while True:
        try:
            await delete_expired(store, retention, now=now)
            await backlog.look()
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
