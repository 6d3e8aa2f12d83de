"""The audit log in the database."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, Table, delete, func, insert, or_, select, tuple_

from broadsheet.v1 import change_pb2
from controlplane.catalog import audit
from controlplane.principal import Origin, Principal
from controlplane.store.databases.connection import Statements, WriteConnection
from controlplane.store.reading import Reading
from controlplane.store.schema import audit_changes, audit_events, audit_operations, blobs
from controlplane.store.times import from_us, to_us

_TEXT_CHARACTERS_MAX = 256
"""Of the columns that hold text from callers. Longer text is cut: a change must not fail because of
its audit event."""


class AuditEvents:
    """The audit log.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def oldest_time(self) -> datetime | None:
        """When the oldest event that is kept was made. None: there is none."""
        async with self._reading.begin() as connection:
            # By their keys, which rise with time and have an index.
            first = [
                (
                    await connection.execute(select(table.c.create_time_us).order_by(*table.primary_key).limit(1))
                ).scalar()
                for table in (audit_events, audit_operations)
            ]
        return min((from_us(time_us) for time_us in first if time_us is not None), default=None)

    async def list(
        self, matching: audit.EventFilter, *, before: audit.EventKey | None, limit: int
    ) -> Sequence[audit.AuditEvent]:
        """Up to `limit` events, newest first; if given, only those before `before`."""
        of_revisions = _matching(select(audit_events), audit_events, matching)
        of_operations = _matching(select(audit_operations), audit_operations, matching)
        if before is not None:
            # The event of a revision comes before the operations after it.
            of_revisions = of_revisions.where(audit_events.c.catalog_revision < before[0] + (before[1] > 0))
            key = tuple_(audit_operations.c.catalog_revision, audit_operations.c.number)
            of_operations = of_operations.where(key < tuple_(*before))
        of_revisions = of_revisions.order_by(audit_events.c.catalog_revision.desc()).limit(limit)
        newest_first = (audit_operations.c.catalog_revision.desc(), audit_operations.c.number.desc())
        async with self._reading.begin() as connection:
            rows = (await connection.execute(of_revisions)).all()
            operations = (await connection.execute(of_operations.order_by(*newest_first).limit(limit))).all()
            changes = await _changes_of(connection, [row.catalog_revision for row in rows])
        events = [_event(row, tuple(changes[row.catalog_revision])) for row in rows]
        events += [_operation(row) for row in operations]
        return sorted(events, key=lambda event: event.key, reverse=True)[:limit]


class AuditLog:
    """Writes the audit log, on a connection that may write."""

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    async def read_changes(
        self, entry_changes: Iterable[audit.EntryChange], known: Mapping[bytes, bytes]
    ) -> tuple[change_pb2.ResourceChange, ...]:
        """These changes as the log keeps them.

        Args:
            entry_changes: The changes.
            known: Blobs by digest. Others are read, unless they are not shown.
        """
        differing = sorted(
            (change for change in entry_changes if change.before != change.after), key=lambda change: change.name
        )
        digests = {ref.digest for change in audit.shown(differing) for ref in change.refs}
        unknown = digests - known.keys()
        if unknown:
            query = select(blobs.c.digest, blobs.c.blob).where(blobs.c.digest.in_(unknown))
            known = {**known, **{row.digest: row.blob for row in await self._connection.execute(query)}}
        return audit.kept_changes(differing, known)

    async def append(self, event: audit.AuditEvent) -> None:
        """Add the event of the catalog revision that the transaction makes."""
        await self._connection.insert(audit_events, {**_values(event), "change_count": event.change_count})
        for change in event.changes:
            content = change.SerializeToString()
            row = {"catalog_revision": event.catalog_revision, "name": change.name, "change": content}
            await self._connection.insert(audit_changes, row)

    async def append_operation(self, event: audit.AuditEvent) -> None:
        """Add the event of an operation that changes no catalog, and number it.

        The transaction holds the lock on the catalog, so numbers are unique.
        """
        columns = audit_operations.c
        of_revision = columns.catalog_revision == event.catalog_revision
        newest = (await self._connection.execute(select(func.max(columns.number)).where(of_revision))).scalar_one()
        await self._connection.execute(insert(audit_operations).values(**_values(event), number=(newest or 0) + 1))

    async def delete(self, *, before: datetime, limit: int) -> int:
        """Delete up to `limit` of the oldest events from before this time. Returns how many.

        Events are written once and never changed, so this needs no lock on the catalog. Another
        control plane may delete at the same time: each skips the rows that the other has locked.
        """
        old = (
            select(audit_events.c.catalog_revision)
            .where(audit_events.c.create_time_us < to_us(before))
            .order_by(audit_events.c.catalog_revision)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        revisions = (await self._connection.execute(old)).scalars().all()
        if revisions:
            await self._connection.execute(delete(audit_events).where(audit_events.c.catalog_revision.in_(revisions)))
        return len(revisions) or await self._delete_operations(before=before, limit=limit)

    async def _delete_operations(self, *, before: datetime, limit: int) -> int:
        key = (audit_operations.c.catalog_revision, audit_operations.c.number)
        old = (
            select(*key)
            .where(audit_operations.c.create_time_us < to_us(before))
            .order_by(*key)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        keys = [tuple(row) for row in await self._connection.execute(old)]
        if keys:
            await self._connection.execute(delete(audit_operations).where(tuple_(*key).in_(keys)))
        return len(keys)


async def _changes_of(
    connection: Statements, revisions: Sequence[int]
) -> Mapping[int, Sequence[change_pb2.ResourceChange]]:
    changes = defaultdict[int, list[change_pb2.ResourceChange]](list)
    query = (
        select(audit_changes)
        .where(audit_changes.c.catalog_revision.in_(revisions))
        .order_by(audit_changes.c.catalog_revision, audit_changes.c.name)
    )
    for row in await connection.execute(query) if revisions else ():
        changes[row.catalog_revision].append(change_pb2.ResourceChange.FromString(row.change))
    return changes


def _values(event: audit.AuditEvent) -> Mapping[str, object]:
    """The columns that both tables of events have."""
    return {
        "catalog_revision": event.catalog_revision,
        "create_time_us": to_us(event.create_time),
        "principal": _shortened(event.principal.name),
        "role": event.principal.role,
        "authentication": event.principal.authentication,
        "address": _shortened(event.origin.address),
        "request_id": _shortened(event.origin.request_id),
        "method": event.method,
        "resource": event.resource,
    }


def _matching(query: Select[Any], table: Table, matching: audit.EventFilter) -> Select[Any]:
    columns = table.c
    if matching.resource and table is audit_operations:
        query = query.where(columns.resource == matching.resource)
    elif matching.resource:
        changing = select(audit_changes.c.catalog_revision).where(audit_changes.c.name == matching.resource)
        query = query.where(or_(columns.resource == matching.resource, columns.catalog_revision.in_(changing)))
    if matching.principal:
        query = query.where(columns.principal == matching.principal)
    if matching.method:
        query = query.where(columns.method == matching.method)
    if matching.min_revision is not None:
        query = query.where(columns.catalog_revision >= matching.min_revision)
    if matching.max_revision is not None:
        query = query.where(columns.catalog_revision <= matching.max_revision)
    if matching.start_time is not None:
        query = query.where(columns.create_time_us >= to_us(matching.start_time))
    if matching.end_time is not None:
        query = query.where(columns.create_time_us < to_us(matching.end_time))
    return query


def _event(row: Row[Any], changes: tuple[change_pb2.ResourceChange, ...]) -> audit.AuditEvent:
    return dataclasses.replace(_common(row), changes=changes, change_count=row.change_count)


def _operation(row: Row[Any]) -> audit.AuditEvent:
    return dataclasses.replace(_common(row), operation=row.number)


def _common(row: Row[Any]) -> audit.AuditEvent:
    """What a row of either table of events says."""
    return audit.AuditEvent(
        catalog_revision=row.catalog_revision,
        create_time=from_us(row.create_time_us),
        principal=Principal(name=row.principal, role=row.role, authentication=row.authentication),
        origin=Origin(address=row.address, request_id=row.request_id),
        method=row.method,
        resource=row.resource,
        changes=(),
        change_count=0,
    )


def _shortened(text: str) -> str:
    # Postgres takes no NUL in text.
    return text.replace("\0", "\ufffd")[:_TEXT_CHARACTERS_MAX]
