"""Statements that let go of snapshots: their numbers first, then the entries, then the blobs that
nothing needs.

A snapshot whose number is there is complete; one whose number is gone can't be read. So each step
may be the last one for a while.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane.store.resources import rows as store_rows
from controlplane.store.schema import blobs, catalog, catalog_revisions, entries, replicas

ROWS_PER_TRANSACTION = 200
"""Writers wait for this transaction: for some milliseconds."""

SNAPSHOTS_MIN = 100
"""Control planes tell each other every 2 s which snapshots they are sending: so many commits may
come between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """A snapshot is kept while it is one of the newest or young enough, and while a data plane is
    being sent it."""

    snapshots: int = 1000
    """The newest so many are kept, whatever their age."""
    age: timedelta = timedelta(days=30)
    """Those younger than this are kept, however many."""


async def compact(
    connection: AsyncConnection, retention: Retention, *, now: datetime, oldest_in_use: int | None
) -> int:
    """Remove some rows that no kept snapshot needs; how many. 0: there were none.

    Args:
        connection: In a transaction that may write.
        retention: Which snapshots are kept.
        now: The time (UTC, aware).
        oldest_in_use: The oldest catalog revision that a data plane is being sent by this process.
        None: none is.
    """
    # With the lock of a writer: no new entry can come to need a blob that is about to go.
    head = (await connection.execute(select(catalog.c.revision).with_for_update())).scalar_one()
    elsewhere = (await connection.execute(select(func.min(replicas.c.oldest_in_use)))).scalar_one()
    in_use = [one for one in (oldest_in_use, elsewhere) if one is not None]
    below = min([head - retention.snapshots + 1, *in_use])
    return await _forget_revisions(connection, below, now - retention.age) + await _forget_entries(connection)


async def _forget_revisions(connection: AsyncConnection, below: int, before: datetime) -> int:
    revision = catalog_revisions.c.revision
    # From the oldest on without a gap: one that is to be kept keeps those after it.
    young = catalog_revisions.c.create_time_us >= store_rows.to_us(before)
    oldest_young = (await connection.execute(select(func.min(revision)).where(young))).scalar_one()
    floor = below if oldest_young is None else min(below, oldest_young)
    query = select(revision).where(revision < floor).order_by(revision).limit(ROWS_PER_TRANSACTION)
    gone = (await connection.execute(query)).scalars().all()
    if gone:
        await connection.execute(delete(catalog_revisions).where(revision <= gone[-1]))
    return len(gone)


async def _forget_entries(connection: AsyncConnection) -> int:
    oldest = (await connection.execute(select(func.min(catalog_revisions.c.revision)))).scalar_one()
    query = (
        select(entries.c.name, entries.c.from_revision, entries.c.digest)
        .where(entries.c.to_revision <= oldest)
        .order_by(entries.c.to_revision)
        .limit(ROWS_PER_TRANSACTION)
    )
    gone = (await connection.execute(query)).all()
    if not gone:
        return 0
    keys = [and_(entries.c.name == row.name, entries.c.from_revision == row.from_revision) for row in gone]
    await connection.execute(delete(entries).where(or_(*keys)))
    digests = {row.digest for row in gone}
    still_needed = select(entries.c.digest).where(entries.c.digest == blobs.c.digest).exists()
    await connection.execute(delete(blobs).where(blobs.c.digest.in_(digests), ~still_needed))
    return len(gone)
