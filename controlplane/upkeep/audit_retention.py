"""Lets audit events go when they are older than the operator wants to keep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from controlplane import errors

INTERVAL_S = 3600.0
"""Between two looks. Retention is a matter of days."""

_BATCH_EVENTS = 500
"""Deleted in one transaction, which other writes wait for: some milliseconds."""

_log = structlog.get_logger("controlplane.upkeep.audit_retention")


class AuditStore(Protocol):
    """The part of the store that is used here."""

    async def delete_audit_events(self, *, before: datetime, limit: int) -> int:
        """Delete up to `limit` of the oldest events of before this time; how many those were."""


async def run(
    store: AuditStore, retention: timedelta, *, now: Callable[[], datetime], interval_s: float = INTERVAL_S
) -> None:
    """Delete what is older than `retention`, until cancelled. Several control planes on one
    database may do so."""
    while True:
        try:
            await delete_expired(store, retention, now=now)
        except errors.Unavailable as error:
            _log.warning("audit_retention_failed", reason=error.reason)
        await asyncio.sleep(interval_s)


async def delete_expired(store: AuditStore, retention: timedelta, *, now: Callable[[], datetime]) -> int:
    """Delete what is older than `retention`; how many events that was.

    Raises:
        errors.Unavailable: the database failed.
    """
    deleted = 0
    while count := await store.delete_audit_events(before=now() - retention, limit=_BATCH_EVENTS):
        deleted += count
    if deleted:
        _log.info("audit_events_expired", events=deleted, retention_days=retention.days)
    return deleted
