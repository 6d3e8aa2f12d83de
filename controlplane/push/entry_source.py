"""What the push reads from the store, as items that chunks are cut from."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import entry_to_proto
from controlplane.catalog.domain import Entry, Position
from controlplane.push.cutting import Item, ReadItems

_OVERHEAD_BYTES = 64
"""Digest, lengths and tags of an entry on the wire. So a chunk has at most 16,384 refs, and a Want
may answer each of them."""


class Change(Protocol):
    """What one name has in a later snapshot."""

    @property
    def name(self) -> str:
        """Of the entry."""

    @property
    def entry(self) -> Entry | None:
        """None: the later snapshot does not have it."""


class Ref(Protocol):
    """An entry without its content."""

    @property
    def name(self) -> str:
        """Of the entry."""

    @property
    def type(self) -> str:
        """Full name of the message in its content."""

    @property
    def digest(self) -> bytes:
        """Of its content."""


class EntrySource(Protocol):
    """The part of the store that snapshots are read from."""

    async def read_entries(self, revision: int, *, after_name: str, limit: int) -> Sequence[Entry]:
        """Up to `limit` entries of the snapshot at `revision` after `after_name`, by name."""

    async def read_changes(self, base: Position, to_revision: int, *, after_name: str, limit: int) -> Sequence[Change]:
        """Up to `limit` changes from `base` to `to_revision` after `after_name`, by name."""

    async def read_refs(self, revision: int, *, after_name: str, limit: int) -> Sequence[Ref]:
        """Up to `limit` refs of the snapshot at `revision` after `after_name`, by name."""

    async def read_named(self, revision: int, names: Sequence[str]) -> Sequence[Entry]:
        """Those entries of the snapshot at `revision` that have these names, by name."""

    async def holds(self, position: Position) -> bool:
        """Whether changes that begin at `position` can be read."""


@dataclass(frozen=True, slots=True)
class _EntryItem:
    entry: Entry

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def size_bytes(self) -> int:
        return len(self.entry.name) + len(self.entry.type) + len(self.entry.blob) + _OVERHEAD_BYTES

    def put_into(self, chunk: pb.Chunk) -> None:
        chunk.entries.append(entry_to_proto(self.entry))


@dataclass(frozen=True, slots=True)
class _RemovalItem:
    name: str

    @property
    def size_bytes(self) -> int:
        return len(self.name) + _OVERHEAD_BYTES

    def put_into(self, chunk: pb.Chunk) -> None:
        chunk.removed.append(self.name)


@dataclass(frozen=True, slots=True)
class _RefItem:
    ref: Ref

    @property
    def name(self) -> str:
        return self.ref.name

    @property
    def size_bytes(self) -> int:
        return len(self.ref.name) + len(self.ref.type) + _OVERHEAD_BYTES

    def put_into(self, chunk: pb.Chunk) -> None:
        ref = self.ref
        chunk.refs.append(snapshot_pb2.EntryRef(name=ref.name, type=ref.type, digest=ref.digest))


def entries_of(source: EntrySource, revision: int) -> ReadItems:
    """All entries of a snapshot."""

    async def read(after_name: str, limit: int) -> Sequence[Item]:
        return [_EntryItem(entry) for entry in await source.read_entries(revision, after_name=after_name, limit=limit)]

    return read


def changes_of(source: EntrySource, base: Position, revision: int) -> ReadItems:
    """What differs between two snapshots."""

    async def read(after_name: str, limit: int) -> Sequence[Item]:
        changes = await source.read_changes(base, revision, after_name=after_name, limit=limit)
        return [_EntryItem(change.entry) if change.entry else _RemovalItem(change.name) for change in changes]

    return read


def refs_of(source: EntrySource, revision: int) -> ReadItems:
    """The refs of a snapshot."""

    async def read(after_name: str, limit: int) -> Sequence[Item]:
        return [_RefItem(ref) for ref in await source.read_refs(revision, after_name=after_name, limit=limit)]

    return read


def named_entries_of(source: EntrySource, revision: int, names: Sequence[str]) -> ReadItems:
    """The entries of a snapshot that have these names, which are in order.

    Raises:
        LookupError: the snapshot lacks one of them.
    """

    async def read(after_name: str, limit: int) -> Sequence[Item]:
        begin = bisect.bisect_right(names, after_name)
        page = names[begin : begin + limit]
        entries = await source.read_named(revision, page) if page else ()
        if len(entries) != len(page):
            raise LookupError(f"revision {revision} lacks {len(page) - len(entries)} entries that its manifest has")
        return [_EntryItem(entry) for entry in entries]

    return read
