"""Catalog revisions: what each snapshot was, and the one place that allocates the next number."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, String, cast, func, insert, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane import errors
from controlplane.catalog import domain
from controlplane.catalog.domain import Stamp
from controlplane.store.databases.connection import Query, Statements, WriteConnection
from controlplane.store.databases.postgres import CATALOG_CHANNEL
from controlplane.store.reading import Reading
from controlplane.store.schema import blobs, catalog, catalog_revisions, entries
from controlplane.store.times import from_us, to_us
from protocol.catalog_digest import CatalogDigest

_LOCK_CATALOG = Query(select(catalog).with_for_update())
_ADVANCE = update(catalog)
# The commit notifies the other control planes. As part of this statement it costs no round trip.
_ADVANCE_AND_NOTIFY = update(catalog).returning(
    func.pg_notify(literal_column(f"'{CATALOG_CHANNEL}'"), cast(catalog.c.revision, String))
)


class Revisions:
    """The catalog revisions that are kept.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def head(self) -> domain.Head:
        """The newest committed snapshot."""
        query = select(catalog.c.store_uid, catalog.c.revocations_sequence, catalog_revisions).join(
            catalog_revisions, catalog_revisions.c.revision == catalog.c.revision
        )
        async with self._reading.begin() as connection:
            row = (await connection.execute(query)).one()
        return domain.Head(
            position=domain.Position(store_uid=row.store_uid, revision=row.revision, digest=row.root_digest),
            entry_count=row.entry_count,
            revocations_sequence=row.revocations_sequence,
            commit_time=from_us(row.create_time_us),
        )

    async def commit_at(self, revision: int) -> domain.Commit:
        """The commit that made the snapshot at `revision`.

        Raises:
            errors.NotFound: there is no such revision, or it is not kept any more.
        """
        query = select(catalog_revisions).where(catalog_revisions.c.revision == revision)
        async with self._reading.begin() as connection:
            newest = (await Revisions(self._reading.on(connection)).head()).position
            # A number beyond 64 bits does not fit the column, so it is not sent to the database.
            row = (await connection.execute(query)).one_or_none() if revision <= newest.revision else None
            if row is None:
                oldest = (await connection.execute(select(func.min(catalog_revisions.c.revision)))).scalar_one()
                raise errors.revision_not_found(revision, oldest, newest.revision)
        return _commit(row, newest.store_uid)

    async def position_at(self, revision: int) -> domain.Position:
        """The position of the snapshot at `revision`.

        Raises:
            errors.NotFound: there is no such revision, or it is not kept any more.
        """
        return (await self.commit_at(revision)).head.position

    async def list(self, *, before_revision: int | None, limit: int) -> Sequence[domain.Commit]:
        """Up to `limit` commits, newest first; if given, only those before `before_revision`."""
        query = select(catalog_revisions).order_by(catalog_revisions.c.revision.desc()).limit(limit)
        if before_revision is not None:
            query = query.where(catalog_revisions.c.revision < before_revision)
        async with self._reading.begin() as connection:
            store_uid = (await Revisions(self._reading.on(connection)).head()).position.store_uid
            return [_commit(row, store_uid) for row in await connection.execute(query)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tip:
    """The newest snapshot as a write transaction sees it, with the changes before in its group."""

    head: domain.Head
    digest: CatalogDigest
    """The digest of its entries."""
    entry_bytes: int
    """Bytes of its entries, as `protocol.snapshot_limits` counts them."""

    @classmethod
    async def lock(cls, connection: WriteConnection) -> Tip:
        """Lock the catalog's row, then read the newest snapshot. Waits for other changes."""
        (row,) = await connection.fetch(_LOCK_CATALOG)
        digest = CatalogDigest.from_bytes(row.digest_state, row.entry_count)
        position = domain.Position(store_uid=row.store_uid, revision=row.revision, digest=digest.root())
        is_counted = row.entry_bytes_revision == row.revision
        entry_bytes = row.entry_bytes if is_counted else await count_entry_bytes(connection)
        head = domain.Head(
            position=position, entry_count=row.entry_count, revocations_sequence=row.revocations_sequence
        )
        return cls(head=head, digest=digest, entry_bytes=entry_bytes)


class NextRevision:
    """The revision that a change makes if it changes the catalog.

    While it exists, its transaction holds the lock on the catalog's one row. So there is one
    catalog change at a time among all processes, and numbers have no gaps.
    """

    def __init__(self, connection: WriteConnection, tip: Tip, stamp: Stamp) -> None:
        self._connection = connection
        self.tip = tip
        """The snapshot before the change."""
        self.stamp = stamp
        """What the change is marked with; `catalog_revision` is the number that it gets."""

    async def allocate(
        self, digest: CatalogDigest, entry_bytes: int, revocations_sequence: int, *, method: str, resource: str
    ) -> Tip:
        """Write the revision as the newest one.

        Args:
            digest: The digest of the entries after the change.
            entry_bytes: Their bytes.
            revocations_sequence: The newest revocation after the change.
            method: The call that made the change, such as `RegisterModel`.
            resource: Name of the resource that was changed.
        """
        revision = self.stamp.catalog_revision
        root = digest.root()
        is_shared = self._connection.dialect.name == "postgresql"
        row = {
            "revision": revision,
            "digest_state": digest.to_bytes(),
            "entry_count": digest.entry_count,
            "entry_bytes": entry_bytes,
            "entry_bytes_revision": revision,
            "revocations_sequence": revocations_sequence,
        }
        # Of a group of changes, only the last one writes the row.
        self._connection.put_last(catalog, _ADVANCE_AND_NOTIFY if is_shared else _ADVANCE, row)
        commit = {
            "revision": revision,
            "root_digest": root,
            "entry_count": digest.entry_count,
            "create_time_us": to_us(self.stamp.now),
            "method": method,
            "resource": resource,
            "entry_bytes": entry_bytes,
        }
        await self._connection.insert(catalog_revisions, commit)
        position = dataclasses.replace(self.tip.head.position, revision=revision, digest=root)
        head = domain.Head(
            position=position,
            entry_count=digest.entry_count,
            revocations_sequence=revocations_sequence,
            commit_time=self.stamp.now,
        )
        return Tip(head=head, digest=digest, entry_bytes=entry_bytes)


async def count_entry_bytes(connection: Statements) -> int:
    """The bytes of the newest snapshot. Its cost is in proportion to the catalog."""
    of_entry = func.length(entries.c.name) + func.length(entries.c.type) + blobs.c.size_bytes
    query = (
        select(func.coalesce(func.sum(of_entry), 0))
        .select_from(entries.join(blobs, blobs.c.digest == entries.c.digest))
        .where(entries.c.to_revision.is_(None))
    )
    return int((await connection.execute(query)).scalar_one())


async def make_catalog_if_absent(connection: AsyncConnection, *, store_uid: str, now: datetime) -> None:
    """Give a new store its catalog: empty, at revision 0."""
    if (await connection.execute(select(catalog.c.id))).one_or_none() is not None:
        return
    empty = CatalogDigest()
    await connection.execute(
        insert(catalog).values(id=1, store_uid=store_uid, revision=0, digest_state=empty.to_bytes(), entry_count=0)
    )
    await connection.execute(
        insert(catalog_revisions).values(
            revision=0,
            root_digest=empty.root(),
            entry_count=0,
            create_time_us=to_us(now),
            method="",
            resource="",
            entry_bytes=0,
        )
    )


def _commit(row: Row[Any], store_uid: str) -> domain.Commit:
    position = domain.Position(store_uid=store_uid, revision=row.revision, digest=row.root_digest)
    create_time = from_us(row.create_time_us)
    return domain.Commit(
        head=domain.Head(position=position, entry_count=row.entry_count, commit_time=create_time),
        create_time=create_time,
        method=row.method,
        resource=row.resource,
        size_bytes=row.entry_bytes,
    )
