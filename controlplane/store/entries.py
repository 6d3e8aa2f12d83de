"""What differs between two snapshots: a range query over the entry history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, FromClause, or_, select, union
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane.catalog import domain
from controlplane.store.schema import blobs, entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One name under which two snapshots have different entries; at least one is there."""

    name: str
    before: domain.Entry | None
    after: domain.Entry | None


async def differences(
    connection: AsyncConnection, from_revision: int, to_revision: int, *, after_name: str, limit: int
) -> Sequence[Difference]:
    """What differs between two kept snapshots, ordered by name. Takes time in proportion to what
    changed between them.

    Args:
        connection: In a transaction.
        from_revision: Catalog revision of the one, which may be the later one.
        to_revision: That of the other.
        after_name: Leave out names up to and including this one.
        limit: Differences at most.
    """
    low, high = sorted((from_revision, to_revision))
    touched = union(
        *(
            select(entries.c.name).where(column > low, column <= high, entries.c.name > after_name)
            for column in (entries.c.from_revision, entries.c.to_revision)
        )
    ).subquery("touched")
    before, after = entries.alias("before"), entries.alias("after")
    query = (
        select(
            touched.c.name,
            before.c.type.label("before_type"),
            before.c.digest.label("before_digest"),
            after.c.type.label("after_type"),
            after.c.digest.label("after_digest"),
        )
        .select_from(touched)
        .outerjoin(before, (before.c.name == touched.c.name) & _held(before, from_revision))
        .outerjoin(after, (after.c.name == touched.c.name) & _held(after, to_revision))
        .where(or_(before.c.digest.is_distinct_from(after.c.digest), before.c.type.is_distinct_from(after.c.type)))
        .order_by(touched.c.name)
        .limit(limit)
    )
    rows = (await connection.execute(query)).all()
    digests = {digest for row in rows for digest in (row.before_digest, row.after_digest) if digest is not None}
    contents = await _contents(connection, sorted(digests))

    def entry(name: str, type_: str | None, digest: bytes | None) -> domain.Entry | None:
        if type_ is None or digest is None:
            return None
        return domain.Entry(name=name, type=type_, digest=digest, blob=contents[digest])

    return [
        Difference(
            name=row.name,
            before=entry(row.name, row.before_type, row.before_digest),
            after=entry(row.name, row.after_type, row.after_digest),
        )
        for row in rows
    ]


def _held(table: FromClause, revision: int) -> ColumnElement[bool]:
    held: ColumnElement[bool] = (table.c.from_revision <= revision) & (
        table.c.to_revision.is_(None) | (table.c.to_revision > revision)
    )
    return held


async def _contents(connection: AsyncConnection, digests: Sequence[bytes]) -> dict[bytes, bytes]:
    if not digests:
        return {}
    query = select(blobs.c.digest, blobs.c.blob).where(blobs.c.digest.in_(digests))
    return {row.digest: row.blob for row in await connection.execute(query)}
