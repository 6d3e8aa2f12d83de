"""Chunks of snapshots, changes and manifests, read and encoded once for all streams."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

from controlplane.catalog.domain import Position
from controlplane.errors import NotFound
from controlplane.push.cutting import Cutter, Piece
from controlplane.push.entry_source import EntrySource, changes_of, entries_of, named_entries_of, refs_of
from controlplane.push.flights import Flights
from controlplane.push.subscription.transfer import (
    ChangeRequest,
    ChunkRequest,
    PieceRequest,
    RefsRequest,
    WantedRequest,
)

CACHED_SNAPSHOTS_MAX = 2
"""The newest, and its predecessor for streams that are still sending it. Slower streams read from
the store."""

CACHED_CHANGES_MAX = 64
"""Changes that are kept, those used last. Streams that are a few commits behind differ in where
their change begins, and all change to the newest snapshot. Of each, the first chunk is kept: few
have more, and streams read those from the store."""

CACHED_REFS_MAX = 16
"""Chunks of refs that are kept, those used last: of 150,000 entries. With the names by digest, each
takes about 4 MB."""

CACHED_WANTED_MAX = 16
"""Chunks of wanted entries that are kept, those used last. Data planes that have missed the same
changes want the same."""


class _Cached:
    """Chunks of a snapshot, cut when the fastest stream asks for them."""

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self._chunks: list[Piece] = []
        self._ended = False
        self._cutting = asyncio.Lock()

    async def get(self, index: int) -> Piece | None:
        while index >= len(self._chunks) and not self._ended:
            async with self._cutting:
                if index >= len(self._chunks) and not self._ended:
                    chunk = await self._cutter.next_chunk()
                    if chunk is not None:
                        self._chunks.append(chunk)
                    self._ended = self._cutter.is_done
        return self._chunks[index] if index < len(self._chunks) else None


class _First(NamedTuple):
    """The first chunk of something."""

    piece: Piece | None
    is_all: bool
    """Whether there is no second one."""


class _Recent:
    """The first chunks of what was used last."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._kept: OrderedDict[Hashable, _First] = OrderedDict()
        """By what they are of, those used last at the end."""
        self._cutting: Flights[_First] = Flights()

    def __len__(self) -> int:
        return len(self._kept)

    def has_all(self, key: Hashable) -> bool:
        """Whether what this key stands for is kept, and is a single chunk."""
        kept = self._kept.get(key)
        return kept is not None and kept.is_all

    async def get(self, key: Hashable, cutter: Callable[[], Cutter]) -> _First:
        """What is kept under this key; else it is cut, once for all who ask meanwhile."""
        kept = self._kept.get(key)
        if kept is None:
            return await self._cutting.join(key, lambda: self._cut(key, cutter()))
        self._kept.move_to_end(key)
        return kept

    async def _cut(self, key: Hashable, cutter: Cutter) -> _First:
        first = _First(await cutter.next_chunk(), cutter.is_done)
        self._kept[key] = first
        if len(self._kept) > self._size_max:
            self._kept.popitem(last=False)
        return first


class ChunkCache:
    """Chunks of the newest snapshots, changes and manifests, shared by all streams."""

    def __init__(self, source: EntrySource) -> None:
        self._source = source
        self._snapshots: dict[Position, _Cached] = {}
        self._changes = _Recent(CACHED_CHANGES_MAX)
        self._refs = _Recent(CACHED_REFS_MAX)
        self._wanted = _Recent(CACHED_WANTED_MAX)
        self._looking: Flights[bool] = Flights()

    async def can_send(self, request: ChangeRequest) -> bool:
        """Whether the change can be read: it begins at a snapshot that is kept."""
        key = (request.base, request.head.position)
        if self._changes.has_all(key):
            return True
        # A whole fleet asks at once.
        return await self._looking.join(key, lambda: self._source.holds(request.base))

    async def get(self, request: PieceRequest) -> Piece | None:
        """The chunk that a stream asks for; None: the change has no more.

        Raises:
            LookupError: the snapshot has fewer entries than its head says, or it is not kept any
                more.
        """
        try:
            piece = await self._get(request)
        except NotFound as error:
            raise LookupError(error.message) from None
        is_change = isinstance(request, ChunkRequest) and request.base is not None
        if piece is None and not is_change:
            raise LookupError(f"revision {request.position.revision} ends after {request.after_name!r}")
        return piece

    async def _get(self, request: PieceRequest) -> Piece | None:
        if isinstance(request, RefsRequest):
            return (await self._refs.get(request, lambda: self._cutter(request))).piece
        if isinstance(request, WantedRequest):
            return (await self._wanted.get(request, lambda: self._cutter(request))).piece
        if request.base is not None:
            return await self._get_change(request)
        cached = self._cached_snapshot(request.position)
        return await (cached.get(request.index) if cached is not None else self._cutter(request).next_chunk())

    async def _get_change(self, request: ChunkRequest) -> Piece | None:
        key = (request.base, request.position)
        if request.index == 0:
            return (await self._changes.get(key, lambda: self._cutter(request))).piece
        return None if self._changes.has_all(key) else await self._cutter(request).next_chunk()

    def _cutter(self, request: PieceRequest) -> Cutter:
        """Cuts from the place where the stream is."""
        revision = request.position.revision
        if isinstance(request, RefsRequest):
            read = refs_of(self._source, revision)
        elif isinstance(request, WantedRequest):
            read = named_entries_of(self._source, revision, request.names)
        elif request.base is None:
            read = entries_of(self._source, revision)
        else:
            read = changes_of(self._source, request.base, revision)
        return Cutter(read, after_name=request.after_name)

    def _cached_snapshot(self, position: Position) -> _Cached | None:
        cached = self._snapshots.get(position)
        if cached is not None:
            return cached
        oldest = min(self._snapshots, key=lambda cached_position: cached_position.revision, default=None)
        if oldest is not None and len(self._snapshots) >= CACHED_SNAPSHOTS_MAX:
            if position.revision < oldest.revision:
                return None
            del self._snapshots[oldest]
        cached = _Cached(Cutter(entries_of(self._source, position.revision)))
        self._snapshots[position] = cached
        return cached
