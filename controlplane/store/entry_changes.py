"""Writes snapshot entries: history, blobs and digest, and what the audit log needs of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from sqlalchemy import bindparam, select, update

from controlplane.catalog import audit, domain
from controlplane.store.databases.connection import Query, WriteConnection
from controlplane.store.entries import Entries
from controlplane.store.reading import Reading
from controlplane.store.revisions import NextRevision
from controlplane.store.schema import blobs, entries
from protocol.snapshot_limits import entry_bytes

_CURRENT = Query(
    select(entries.c.type, entries.c.digest, blobs.c.size_bytes, blobs.c.blob)
    .join(blobs, blobs.c.digest == entries.c.digest)
    .where(entries.c.to_revision.is_(None), entries.c.name == bindparam("name")),
    entries,
    key=("name",),
)
_END = (
    update(entries)
    .where(entries.c.to_revision.is_(None), entries.c.name == bindparam("ended"))
    .values(to_revision=bindparam("revision"))
)


class EntryChanges(Entries):
    """The entries of the snapshot that a write transaction makes.

    Invariant: `digest` and `bytes` are those of the entries after the statements so far.
    """

    def __init__(self, connection: WriteConnection, revision: NextRevision) -> None:
        super().__init__(Reading.within(connection, revision.stamp.now))
        self._connection = connection
        self._revision = revision.stamp.catalog_revision
        self._changes: dict[str, audit.EntryChange] = {}
        self.digest = revision.tip.digest
        self.bytes = revision.tip.entry_bytes
        self.count = 0
        """Names whose entry was set. 0: the catalog is unchanged."""
        self._blobs: dict[bytes, bytes] = {}
        self._kept_bytes = 0
        self.blob_bytes = 0
        """Bytes of the blobs of all entries that were set."""

    @property
    def changes(self) -> Collection[audit.EntryChange]:
        """The first `audit.CHANGES_MAX` changes, with the entries before and after."""
        return self._changes.values()

    @property
    def blobs(self) -> Mapping[bytes, bytes]:
        """Blobs of changed entries by digest, as many as an audit event shows."""
        return self._blobs

    async def set(self, name: str, entry: domain.Entry | None, *, is_new: bool = False) -> None:
        """Make `entry` the entry of this name from this revision on. None removes it.

        Args:
            name: Name of the resource.
            entry: Its entry.
            is_new: The name surely has no entry, because the resource did not exist.
        """
        found = await self._connection.fetch(_CURRENT, name=name) if not is_new else ()
        before = found[0] if found else None
        if before is not None:
            await self._connection.execute(_END, {"ended": name, "revision": self._revision})
            self.digest = self.digest.removed(name, before.type, before.digest)
            self.bytes -= entry_bytes(name, before.type, before.size_bytes)
            self._keep_blob(before.digest, before.blob)
        if entry is not None:
            await self._put(entry)
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

    async def _put(self, entry: domain.Entry) -> None:
        # The lock on the catalog keeps compaction from deleting a blob that is there already.
        blob = {"digest": entry.digest, "size_bytes": len(entry.blob), "blob": entry.blob}
        await self._connection.insert(blobs, blob, or_ignore=True)
        of_name = {"name": entry.name, "from_revision": self._revision, "type": entry.type, "digest": entry.digest}
        await self._connection.insert(entries, of_name)
        self.blob_bytes += len(entry.blob)
        self._keep_blob(entry.digest, entry.blob)

    def _keep_blob(self, digest: bytes, blob: bytes) -> None:
        self._kept_bytes += len(blob)
        if self._kept_bytes <= audit.EVENT_BLOB_BYTES_MAX:
            self._blobs[digest] = blob
