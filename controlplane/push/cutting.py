"""Cuts snapshots, and changes between snapshots, into chunks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import entry_to_proto
from controlplane.catalog.domain import Entry, Position
from protocol.snapshot_limits import CHUNK_BYTES_MAX

_PAGE_ENTRIES_MIN = 16
_PAGE_ENTRIES_MAX = 2000
_ENTRY_OVERHEAD_BYTES = 64
"""Digest, lengths and tags of an entry on the wire."""


class Change(Protocol):
    """What one name has in a later snapshot."""

    @property
    def name(self) -> str:
        """Of the entry."""

    @property
    def entry(self) -> Entry | None:
        """None: the later snapshot does not have it."""


class EntrySource(Protocol):
    """The part of the store that snapshots are read from."""

    async def read_entries(self, revision: int, *, after_name: str, limit: int) -> Sequence[Entry]:
        """Up to `limit` entries of the snapshot at `revision` after `after_name`, by name."""

    async def read_changes(self, base: Position, to_revision: int, *, after_name: str, limit: int) -> Sequence[Change]:
        """Up to `limit` changes from `base` to `to_revision` after `after_name`, by name."""

    async def holds(self, position: Position) -> bool:
        """Whether changes that begin at `position` can be read."""


class Piece(NamedTuple):
    """A chunk, and its size. Protobuf finds the size by making the bytes, which is done once."""

    response: pb.SyncResponse
    size_bytes: int


class Cutter:
    """Cuts a snapshot, or a change, into chunks, and reads at most a page ahead.

    The end of a chunk depends on the content alone: cut again from the same place, it is the same.
    """

    def __init__(self, source: EntrySource, base: Position | None, revision: int, *, after_name: str = "") -> None:
        """
        Args:
            source: Where the entries are.
            base: Where the change begins; None: the whole snapshot is cut.
            revision: Of the snapshot.
            after_name: Leave out names up to and including this one. Empty: from the first.
        """
        self._source = source
        self._base = base
        self._revision = revision
        self._after_name = after_name
        self._pending: list[_Item] = []
        self._page_entries = _PAGE_ENTRIES_MIN
        self._exhausted = False

    @property
    def is_done(self) -> bool:
        """Whether the last chunk has been cut."""
        return self._exhausted and not self._pending

    async def next_chunk(self) -> Piece | None:
        """The next chunk; None after the last."""
        while not self._exhausted and sum(map(_size, self._pending)) <= CHUNK_BYTES_MAX:
            await self._read_page()
        count = _chunk_length(self._pending)
        if count == 0:
            return None
        chunk = pb.Chunk()
        for name, entry in self._pending[:count]:
            if entry is None:
                chunk.removed.append(name)
            else:
                chunk.entries.append(entry_to_proto(entry))
        del self._pending[:count]
        response = pb.SyncResponse(chunk=chunk)
        return Piece(response, response.ByteSize())

    async def _read_page(self) -> None:
        page = await self._read(self._page_entries)
        self._pending.extend(page)
        self._exhausted = len(page) < self._page_entries
        if page:
            self._after_name = page[-1][0]
            # About a chunk for each page: an entry may be of 500 bytes or of 256 KiB.
            mean_bytes = sum(map(_size, page)) // len(page)
            self._page_entries = min(max(CHUNK_BYTES_MAX // mean_bytes, _PAGE_ENTRIES_MIN), _PAGE_ENTRIES_MAX)

    async def _read(self, limit: int) -> Sequence[_Item]:
        if self._base is None:
            entries = await self._source.read_entries(self._revision, after_name=self._after_name, limit=limit)
            return [(entry.name, entry) for entry in entries]
        changes = await self._source.read_changes(self._base, self._revision, after_name=self._after_name, limit=limit)
        return [(change.name, change.entry) for change in changes]


_Item = tuple[str, Entry | None]
"""A name, and its entry; None: the snapshot does not have it any more."""


def _size(item: _Item) -> int:
    name, entry = item
    if entry is None:
        return len(name) + _ENTRY_OVERHEAD_BYTES
    return len(entry.name) + len(entry.type) + len(entry.blob) + _ENTRY_OVERHEAD_BYTES


def _chunk_length(items: Iterable[_Item]) -> int:
    """How many of `items` go into a chunk; at least 1, unless there are none."""
    size = 0
    count = 0
    for item in items:
        size += _size(item)
        if count and size > CHUNK_BYTES_MAX:
            break
        count += 1
    return count
