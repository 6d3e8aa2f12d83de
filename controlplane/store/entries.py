"""Reads snapshot entries: those of one snapshot, and the differences between two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Row, Select, or_, select, union

from controlplane.catalog import domain
from controlplane.store.databases.connection import Statements
from controlplane.store.reading import Reading
from controlplane.store.revisions import Revisions
from controlplane.store.schema import blobs, entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A name under which two snapshots have different entries. At least one has an entry."""

    name: str
    before: domain.Entry | None
    after: domain.Entry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryChange:
    """What one name has in a later snapshot."""

    name: str
    entry: domain.Entry | None
    """None: the later snapshot does not have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRef:
    """An entry without its content."""

    name: str
    type: str
    """Full name of the message in its content."""
    digest: bytes


class Entries:
    """The entry history.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def read(
        self, revision: int, *, after_name: str, limit: int, bytes_max: int | None = None
    ) -> Sequence[domain.Entry]:
        """Entries of the snapshot at `revision`, ordered by name.

        Args:
            revision: Any catalog revision that is kept.
            after_name: Leave out entries up to and including this name. Empty: from the first.
            limit: Entries at most.
            bytes_max: Stop before the blobs together pass this size. The first entry is returned
            even when it alone is larger.

        Raises:
            errors.NotFound: there is no such revision, or it is not kept any more.
        """
        async with self._reading.begin() as connection:
            await Revisions(self._reading.on(connection)).commit_at(revision)
            wanted = _held(entries, revision) & (entries.c.name > after_name)
            if bytes_max is not None:
                limit = await _fitting(connection, wanted, limit, bytes_max)
            return list(map(_whole, await connection.execute(_with_blobs(wanted).limit(limit))))

    async def refs(self, revision: int, *, after_name: str, limit: int) -> Sequence[EntryRef]:
        """Entries of the snapshot at `revision` without their contents, ordered by name.

        Args:
            revision: Any catalog revision that is kept.
            after_name: Leave out entries up to and including this name. Empty: from the first.
            limit: Entries at most.

        Raises:
            errors.NotFound: there is no such revision, or it is not kept any more.
        """
        query = (
            select(entries.c.name, entries.c.type, entries.c.digest)
            .where(_held(entries, revision) & (entries.c.name > after_name))
            .order_by(entries.c.name)
            .limit(limit)
        )
        return [EntryRef(name=row.name, type=row.type, digest=row.digest) for row in await self._rows(revision, query)]

    async def named(self, revision: int, names: Sequence[str]) -> Sequence[domain.Entry]:
        """Those entries of the snapshot at `revision` that have these names, ordered by name.

        Args:
            revision: Any catalog revision that is kept.
            names: A few thousand at most: each is a parameter of the query.

        Raises:
            errors.NotFound: there is no such revision, or it is not kept any more.
        """
        query = _with_blobs(_held(entries, revision) & entries.c.name.in_(names))
        return list(map(_whole, await self._rows(revision, query)))

    async def _rows(self, revision: int, query: Select[Any]) -> Sequence[Row[Any]]:
        """The rows of a query about the snapshot at `revision`, if that is kept."""
        async with self._reading.begin() as connection:
            await Revisions(self._reading.on(connection)).commit_at(revision)
            return (await connection.execute(query)).all()

    async def changes_between(
        self, base: domain.Position, to_revision: int, *, after_name: str, limit: int
    ) -> Sequence[EntryChange]:
        """What leads from the snapshot `base` to that at `to_revision`, ordered by name.

        Takes time in proportion to what changed between them.

        Args:
            base: A kept snapshot.
            to_revision: Catalog revision of a later one.
            after_name: Leave out names up to and including this one. Empty: from the first.
            limit: Changes at most.

        Raises:
            errors.NotFound: there is no such revision, or it is not kept any more.
        """
        async with self._reading.begin() as connection:
            rows = await self._differing_rows(connection, base.revision, to_revision, after_name, limit)
            contents = await _contents(connection, sorted({row.after_digest for row in rows} - {None}))
        return [
            EntryChange(name=row.name, entry=_entry(row.name, row.after_type, row.after_digest, contents))
            for row in rows
        ]

    async def differences(
        self, from_revision: int, to_revision: int, *, after_name: str, limit: int
    ) -> Sequence[Difference]:
        """What differs between two kept snapshots, ordered by name.

        Takes time in proportion to what changed between them. Inside a write transaction it must be
        called before anything is changed.

        Args:
            from_revision: Catalog revision of the first snapshot. It may be the later one.
            to_revision: Catalog revision of the second snapshot.
            after_name: Leave out names up to and including this one. Empty: from the first.
            limit: Differences at most.

        Raises:
            errors.NotFound: there is no such revision, or it is not kept any more.
        """
        async with self._reading.begin() as connection:
            rows = await self._differing_rows(connection, from_revision, to_revision, after_name, limit)
            digests = {digest for row in rows for digest in (row.before_digest, row.after_digest)} - {None}
            contents = await _contents(connection, sorted(digests))
        return [
            Difference(
                name=row.name,
                before=_entry(row.name, row.before_type, row.before_digest, contents),
                after=_entry(row.name, row.after_type, row.after_digest, contents),
            )
            for row in rows
        ]

    async def _differing_rows(
        self, connection: Statements, from_revision: int, to_revision: int, after_name: str, limit: int
    ) -> Sequence[Row[Any]]:
        # In one transaction, so that compaction cannot remove entries between the check and the
        # query.
        kept = Revisions(self._reading.on(connection))
        await kept.commit_at(from_revision)
        await kept.commit_at(to_revision)
        return (await connection.execute(_differing(from_revision, to_revision, after_name, limit))).all()


def _held(table: FromClause, revision: int) -> ColumnElement[bool]:
    """The rows of `entries` that are in the snapshot at `revision`."""
    held: ColumnElement[bool] = (table.c.from_revision <= revision) & (
        table.c.to_revision.is_(None) | (table.c.to_revision > revision)
    )
    return held


def _with_blobs(wanted: ColumnElement[bool]) -> Select[Any]:
    """Whole entries, ordered by name."""
    return (
        select(entries.c.name, entries.c.type, entries.c.digest, blobs.c.blob)
        .join(blobs, blobs.c.digest == entries.c.digest)
        .where(wanted)
        .order_by(entries.c.name)
    )


def _whole(row: Row[Any]) -> domain.Entry:
    return domain.Entry(name=row.name, type=row.type, digest=row.digest, blob=row.blob)


async def _fitting(connection: Statements, wanted: ColumnElement[bool], limit: int, bytes_max: int) -> int:
    """How many of the first `limit` entries fit into `bytes_max`; at least 1."""
    query = (
        select(blobs.c.size_bytes)
        .join(entries, blobs.c.digest == entries.c.digest)
        .where(wanted)
        .order_by(entries.c.name)
        .limit(limit)
    )
    total = 0
    for count, size_bytes in enumerate((await connection.execute(query)).scalars()):
        total += size_bytes
        if total > bytes_max:
            return max(1, count)
    return limit


def _differing(from_revision: int, to_revision: int, after_name: str, limit: int) -> Select[Any]:
    low, high = sorted((from_revision, to_revision))
    # Only entries that began or ended between the two snapshots can differ. Both columns have an
    # index.
    touched = union(
        *(
            select(entries.c.name).where(column > low, column <= high, entries.c.name > after_name)
            for column in (entries.c.from_revision, entries.c.to_revision)
        )
    ).subquery("touched")
    before, after = entries.alias("before"), entries.alias("after")
    return (
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


async def _contents(connection: Statements, digests: Sequence[bytes]) -> Mapping[bytes, bytes]:
    if not digests:
        return {}
    query = select(blobs.c.digest, blobs.c.blob).where(blobs.c.digest.in_(digests))
    return {row.digest: row.blob for row in await connection.execute(query)}


def _entry(name: str, type_: str | None, digest: bytes | None, contents: Mapping[bytes, bytes]) -> domain.Entry | None:
    if type_ is None or digest is None:
        return None
    return domain.Entry(name=name, type=type_, digest=digest, blob=contents[digest])
