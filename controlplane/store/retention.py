"""Compaction: removes the snapshots that are not kept any more.

Their numbers go first, then the entries, then the blobs that no entry needs. A snapshot whose
number is there is complete, and one whose number is gone cannot be read. So compaction may stop
after any transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, delete, func, or_, select

from controlplane.store.databases.connection import WriteConnection
from controlplane.store.schema import blobs, catalog, catalog_revisions, entries, replicas
from controlplane.store.times import to_us

ROWS_PER_TRANSACTION = 200
"""Catalog changes wait for this transaction, some milliseconds."""

SNAPSHOTS_MIN = 100
"""The least that `retain_snapshots` may be. Control planes report every 2 s which snapshots they
are sending, and this many commits may be made between two reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which snapshots are kept: the newest, those that are young, and those that are being sent."""

    snapshots: int = 1000
    """So many of the newest snapshots are kept, whatever their age."""
    age: timedelta = timedelta(days=30)
    """Snapshots younger than this are kept, however many there are."""


class Compaction:
    """One small step of compaction, on a connection that may write."""

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    async def run(self, retention: Retention, *, now: datetime, oldest_in_use: int | None) -> int:
        """Remove some rows that no kept snapshot needs. Returns how many; 0: there were none.

        It takes the lock on the catalog, unlike other upkeep, for two reasons. A catalog change
        does not write a blob that exists already, so no blob may be deleted between that check and
        the commit. And a rollback reads an old snapshot in several statements.

        Args:
            retention: Which snapshots are kept.
            now: The time in UTC, aware.
            oldest_in_use: The oldest catalog revision that this process is sending to a data plane.
            None: it is sending none.
        """
        newest = (await self._connection.execute(select(catalog.c.revision).with_for_update())).scalar_one()
        elsewhere = (await self._connection.execute(select(func.min(replicas.c.oldest_in_use)))).scalar_one()
        in_use = [revision for revision in (oldest_in_use, elsewhere) if revision is not None]
        below = min([newest - retention.snapshots + 1, *in_use])
        return await self._delete_revisions(below, now - retention.age) + await self._delete_entries()

    async def _delete_revisions(self, below: int, before: datetime) -> int:
        revision = catalog_revisions.c.revision
        # From the oldest on without a gap: a revision that is kept keeps all that follow it.
        young = catalog_revisions.c.create_time_us >= to_us(before)
        oldest_young = (await self._connection.execute(select(func.min(revision)).where(young))).scalar_one()
        floor = below if oldest_young is None else min(below, oldest_young)
        query = select(revision).where(revision < floor).order_by(revision).limit(ROWS_PER_TRANSACTION)
        deleted = (await self._connection.execute(query)).scalars().all()
        if deleted:
            await self._connection.execute(delete(catalog_revisions).where(revision <= deleted[-1]))
        return len(deleted)

    async def _delete_entries(self) -> int:
        oldest = (await self._connection.execute(select(func.min(catalog_revisions.c.revision)))).scalar_one()
        query = (
            select(entries.c.name, entries.c.from_revision, entries.c.digest)
            .where(entries.c.to_revision <= oldest)
            .order_by(entries.c.to_revision)
            .limit(ROWS_PER_TRANSACTION)
        )
        deleted = (await self._connection.execute(query)).all()
        if not deleted:
            return 0
        keys = [and_(entries.c.name == row.name, entries.c.from_revision == row.from_revision) for row in deleted]
        await self._connection.execute(delete(entries).where(or_(*keys)))
        digests = {row.digest for row in deleted}
        still_needed = select(entries.c.digest).where(entries.c.digest == blobs.c.digest).exists()
        await self._connection.execute(delete(blobs).where(blobs.c.digest.in_(digests), ~still_needed))
        return len(deleted)
