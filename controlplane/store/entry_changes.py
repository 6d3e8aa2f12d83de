"""Writes snapshot entries: history, blobs and digest, and what the audit log needs of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane.catalog import audit, domain
from controlplane.store.entries import Entries
from controlplane.store.reading import Reading
from controlplane.store.revisions import NextRevision
from controlplane.store.schema import blobs, entries
from protocol.snapshot_limits import entry_bytes


class EntryChanges(Entries):
    """The entries of the snapshot that a write transaction makes.

    Invariant: `digest` and `bytes` are those of the entries after the statements so far.
    """

    def __init__(self, connection: AsyncConnection, revision: NextRevision) -> None:
        super().__init__(Reading.within(connection, revision.stamp.now))
        self._connection = connection
        self._revision = revision.stamp.catalog_revision
        self._changes: dict[str, audit.EntryChange] = {}
        self.digest = revision.digest
        self.bytes = revision.entry_bytes
        self.count = 0
        """Names whose entry was set. 0: the catalog is unchanged."""

    @property
    def changes(self) -> Collection[audit.EntryChange]:
        """The first `audit.CHANGES_MAX` changes, with the entries before and after."""
        return self._changes.values()

    async def set(self, name: str, entry: domain.Entry | None) -> None:
        """Make `entry` the entry of this name from this revision on. None removes it."""
        current = entries.c.to_revision.is_(None) & (entries.c.name == name)
        query = select(entries.c.type, entries.c.digest, blobs.c.size_bytes).join(
            blobs, blobs.c.digest == entries.c.digest
        )
        before = (await self._connection.execute(query.where(current))).one_or_none()
        if before is not None:
            await self._connection.execute(update(entries).where(current).values(to_revision=self._revision))
            self.digest = self.digest.removed(name, before.type, before.digest)
            self.bytes -= entry_bytes(name, before.type, before.size_bytes)
        if entry is not None:
            await self._put_blob(entry)
            await self._connection.execute(
                insert(entries).values(name=name, from_revision=self._revision, type=entry.type, digest=entry.digest)
            )
            self.digest = self.digest.added(name, entry.type, entry.digest)
            self.bytes += entry_bytes(name, entry.type, len(entry.blob))
        self._record(
            name,
            audit.EntryRef(type=before.type, digest=before.digest, size_bytes=before.size_bytes) if before else None,
            audit.EntryRef(type=entry.type, digest=entry.digest, size_bytes=len(entry.blob)) if entry else None,
        )

    def _record(self, name: str, before: audit.EntryRef | None, after: audit.EntryRef | None) -> None:
        recorded = self._changes.get(name)
        if recorded is not None:
            self._changes[name] = dataclasses.replace(recorded, after=after)
            return
        self.count += 1
        if len(self._changes) < audit.CHANGES_MAX:
            self._changes[name] = audit.EntryChange(name=name, before=before, after=after)

    async def _put_blob(self, entry: domain.Entry) -> None:
        # The lock on the catalog keeps compaction from deleting a blob that is found here.
        known = await self._connection.execute(select(blobs.c.digest).where(blobs.c.digest == entry.digest))
        if known.one_or_none() is None:
            await self._connection.execute(
                insert(blobs).values(digest=entry.digest, size_bytes=len(entry.blob), blob=entry.blob)
            )
