"""Chunks of snapshots and of changes, read from the store once for all streams."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from controlplane.catalog.domain import Position
from controlplane.errors import NotFound
from controlplane.push.cutting import Cutter, EntrySource, Piece
from controlplane.push.subscription.transfer import ChangeRequest, ChunkRequest

CACHED_SNAPSHOTS_MAX = 2
"""The newest, and its predecessor for streams that are still sending it. Slower streams read from
the store."""

CACHED_CHANGES_MAX = 64
"""Changes that are kept, those used last. Streams that are a few commits behind differ in where
their change begins, and all change to the newest snapshot."""

CHANGE_CHUNKS_MAX = 1
"""Chunks of a change that are kept. Few changes have more; streams read those from the store."""


class _Cached:
    """Chunks of a snapshot or a change, cut when the fastest stream asks for them."""

    def __init__(self, cutter: Cutter, chunks_max: int | None) -> None:
        self._cutter = cutter
        self._chunks_max = chunks_max
        self._chunks: list[Piece] = []
        self._ended = False
        self._cutting = asyncio.Lock()

    def has_place_for(self, index: int) -> bool:
        return self._chunks_max is None or index < self._chunks_max or (self._ended and index == len(self._chunks))

    async def get(self, index: int) -> Piece | None:
        while index >= len(self._chunks) and not self._ended:
            async with self._cutting:
                if index >= len(self._chunks) and not self._ended:
                    chunk = await self._cutter.next_chunk()
                    if chunk is not None:
                        self._chunks.append(chunk)
                    self._ended = self._cutter.is_done
        return self._chunks[index] if index < len(self._chunks) else None


class ChunkCache:
    """Chunks of the newest snapshots and changes, shared by all streams.

    The messages that it returns belong to it: they are read only.
    """

    def __init__(self, source: EntrySource) -> None:
        self._source = source
        self._snapshots: dict[Position, _Cached] = {}
        self._changes: OrderedDict[tuple[Position, Position], _Cached] = OrderedDict()
        """By where they begin and end, those used last at the end."""

    async def can_send(self, request: ChangeRequest) -> bool:
        """Whether the change can be read: it begins at a snapshot that is kept."""
        if (request.base, request.head.position) in self._changes:
            return True
        return await self._source.holds(request.base)

    async def get(self, request: ChunkRequest) -> Piece | None:
        """The chunk that a stream asks for; None: the change has no more.

        Raises:
            LookupError: the snapshot has fewer entries than its head says, or it is not kept any
                more.
        """
        cached = self._cached(request)
        try:
            if cached is not None and cached.has_place_for(request.index):
                chunk = await cached.get(request.index)
            else:
                revision, after_name = request.position.revision, request.after_name
                chunk = await Cutter(self._source, request.base, revision, after_name=after_name).next_chunk()
        except NotFound as error:
            raise LookupError(error.message) from None
        if chunk is None and request.base is None:
            raise LookupError(f"revision {request.position.revision} ends after {request.after_name!r}")
        return chunk

    def _cached(self, request: ChunkRequest) -> _Cached | None:
        return self._cached_snapshot(request.position) if request.base is None else self._cached_change(request)

    def _cached_change(self, request: ChunkRequest) -> _Cached:
        assert request.base is not None, "it is a change"
        key = (request.base, request.position)
        cached = self._changes.get(key)
        if cached is None:
            cached = _Cached(Cutter(self._source, request.base, request.position.revision), CHANGE_CHUNKS_MAX)
            self._changes[key] = cached
            if len(self._changes) > CACHED_CHANGES_MAX:
                self._changes.popitem(last=False)
        self._changes.move_to_end(key)
        return cached

    def _cached_snapshot(self, position: Position) -> _Cached | None:
        cached = self._snapshots.get(position)
        if cached is not None:
            return cached
        oldest = min(self._snapshots, key=lambda cached_position: cached_position.revision, default=None)
        if oldest is not None and len(self._snapshots) >= CACHED_SNAPSHOTS_MAX:
            if position.revision < oldest.revision:
                return None
            del self._snapshots[oldest]
        cached = _Cached(Cutter(self._source, None, position.revision), None)
        self._snapshots[position] = cached
        return cached
