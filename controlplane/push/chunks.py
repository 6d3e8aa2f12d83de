"""Snapshots cut into chunks, read from the store once for all streams."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import entry_to_proto
from controlplane.catalog.domain import Entry, Position
from controlplane.push.subscription.transfer import ChunkRequest
from protocol.snapshot_limits import CHUNK_BYTES_MAX

CACHED_SNAPSHOTS_MAX = 2
"""The newest, and its predecessor for streams that are still sending it. Slower streams read from
the store."""

_PAGE_ENTRIES_MIN = 16
_PAGE_ENTRIES_MAX = 2000
_ENTRY_OVERHEAD_BYTES = 64
"""Digest, lengths and tags of an entry on the wire."""


class EntrySource(Protocol):
    """The part of the store that snapshots are read from."""

    async def read_entries(self, revision: int, *, after_name: str, limit: int) -> Sequence[Entry]:
        """Up to `limit` entries of the snapshot at `revision` after `after_name`, by name."""


class _Cutter:
    """Cuts the entries of a snapshot into chunks, and reads at most a page ahead.

    The end of a chunk depends on the entries alone: cut again from the same place, it is the same.
    """

    def __init__(self, source: EntrySource, revision: int, after_name: str) -> None:
        self._source = source
        self._revision = revision
        self._after_name = after_name
        self._pending: list[Entry] = []
        self._page_entries = _PAGE_ENTRIES_MIN
        self._exhausted = False

    async def next_chunk(self) -> pb.SyncResponse | None:
        """The next chunk; None after the last."""
        while not self._exhausted and sum(map(_size, self._pending)) <= CHUNK_BYTES_MAX:
            await self._read_page()
        count = _chunk_length(self._pending)
        if count == 0:
            return None
        chunk = pb.Chunk(entries=map(entry_to_proto, self._pending[:count]))
        del self._pending[:count]
        return pb.SyncResponse(chunk=chunk)

    async def _read_page(self) -> None:
        page = await self._source.read_entries(self._revision, after_name=self._after_name, limit=self._page_entries)
        self._pending.extend(page)
        self._exhausted = len(page) < self._page_entries
        if page:
            self._after_name = page[-1].name
            # About a chunk for each page: an entry may be of 500 bytes or of 256 KiB.
            mean_bytes = sum(map(_size, page)) // len(page)
            self._page_entries = min(max(CHUNK_BYTES_MAX // mean_bytes, _PAGE_ENTRIES_MIN), _PAGE_ENTRIES_MAX)


def _size(entry: Entry) -> int:
    return len(entry.name) + len(entry.type) + len(entry.blob) + _ENTRY_OVERHEAD_BYTES


def _chunk_length(entries: Iterable[Entry]) -> int:
    """How many of `entries` go into a chunk; at least 1, unless there are none."""
    size = 0
    count = 0
    for entry in entries:
        size += _size(entry)
        if count and size > CHUNK_BYTES_MAX:
            break
        count += 1
    return count


class _CachedSnapshot:
    """The chunks of a snapshot, cut when the fastest stream asks for them."""

    def __init__(self, source: EntrySource, revision: int) -> None:
        self._cutter = _Cutter(source, revision, after_name="")
        self._chunks: list[pb.SyncResponse] = []
        self._cutting = asyncio.Lock()

    async def get(self, index: int) -> pb.SyncResponse | None:
        while index >= len(self._chunks):
            async with self._cutting:
                if index >= len(self._chunks):
                    chunk = await self._cutter.next_chunk()
                    if chunk is None:
                        return None
                    self._chunks.append(chunk)
        return self._chunks[index]


class ChunkCache:
    """Chunks of snapshots, shared by all streams. Those of the newest two snapshots are kept.

    The messages that it returns belong to it: they are read only.
    """

    def __init__(self, source: EntrySource) -> None:
        self._source = source
        self._snapshots: dict[Position, _CachedSnapshot] = {}

    async def get(self, request: ChunkRequest) -> pb.SyncResponse:
        """The chunk that a stream asks for.

        Raises:
            LookupError: the snapshot has fewer entries than its head says.
        """
        cached = self._cached(request.position)
        if cached is not None:
            chunk = await cached.get(request.index)
        else:
            chunk = await _Cutter(self._source, request.position.revision, request.after_name).next_chunk()
        if chunk is None:
            raise LookupError(f"revision {request.position.revision} ends after {request.after_name!r}")
        return chunk

    def _cached(self, position: Position) -> _CachedSnapshot | None:
        cached = self._snapshots.get(position)
        if cached is not None:
            return cached
        oldest = min(self._snapshots, key=lambda cached_position: cached_position.revision, default=None)
        if oldest is not None and len(self._snapshots) >= CACHED_SNAPSHOTS_MAX:
            if position.revision < oldest.revision:
                return None
            del self._snapshots[oldest]
        cached = _CachedSnapshot(self._source, position.revision)
        self._snapshots[position] = cached
        return cached
