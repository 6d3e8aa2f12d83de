from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.domain import Entry, Head, Position
from controlplane.push.chunks import CACHED_CHANGES_MAX, CACHED_SNAPSHOTS_MAX, ChunkCache
from controlplane.push.subscription.transfer import ChangeRequest, ChunkRequest, last_name
from protocol.snapshot_limits import CHUNK_BYTES_MAX

MIB = 1024 * 1024


class Source:
    """A store with the same entries at every revision, which counts what is read."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.entries = [
            Entry(name=f"models/m{number:05}", type="t", digest=bytes(32), blob=bytes(size))
            for number, size in enumerate(sizes)
        ]
        self.read = 0
        self.oldest = 0

    async def read_entries(self, revision: int, *, after_name: str, limit: int) -> Sequence[Entry]:
        await asyncio.sleep(0)
        page = [entry for entry in self.entries if entry.name > after_name][:limit]
        self.read += len(page)
        return page

    async def read_changes(self, base: Position, to_revision: int, *, after_name: str, limit: int) -> Sequence[Change]:
        """Between odd and even revisions every second entry is removed; the others differ."""
        await asyncio.sleep(0)
        page = [
            Change(name=entry.name, entry=entry if number % 2 else None)
            for number, entry in enumerate(self.entries)
            if entry.name > after_name
        ][:limit]
        self.read += len(page)
        return page

    async def holds(self, position: Position) -> bool:
        return position.revision >= self.oldest


@dataclass(frozen=True)
class Change:
    name: str
    entry: Entry | None


def at(revision: int) -> Position:
    return Position(store_uid="s", revision=revision, digest=bytes(32))


async def all_chunks(cache: ChunkCache, revision: int, count: int) -> list[pb.SyncResponse]:
    """Ask for chunks as a stream does, until `count` entries have come."""
    chunks: list[pb.SyncResponse] = []
    last_name, written = "", 0
    while written < count:
        request = ChunkRequest(position=at(revision), index=len(chunks), after_name=last_name)
        piece = await cache.get(request)
        assert piece is not None
        assert piece.size_bytes == piece.response.ByteSize()
        chunks.append(piece.response)
        written += len(chunks[-1].chunk.entries)
        last_name = chunks[-1].chunk.entries[-1].ref.name
    return chunks


def names(chunks: Sequence[pb.SyncResponse]) -> list[str]:
    return [entry.ref.name for chunk in chunks for entry in chunk.chunk.entries]


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.sampled_from([0, 300, 70_000, 250_000, MIB - 200, MIB]), min_size=1, max_size=60))
async def test_chunks_are_the_catalog_in_order_and_of_bounded_size(sizes: list[int]) -> None:
    source = Source(sizes)
    chunks = await all_chunks(ChunkCache(source), 1, len(sizes))
    assert names(chunks) == [entry.name for entry in source.entries]
    for chunk in chunks:
        assert chunk.ByteSize() <= CHUNK_BYTES_MAX or len(chunk.chunk.entries) == 1


async def test_streams_share_what_was_read_once() -> None:
    source = Source([2000] * 3000)
    cache = ChunkCache(source)
    first, second = await asyncio.gather(all_chunks(cache, 1, 3000), all_chunks(cache, 1, 3000))
    assert source.read == 3000
    assert all(mine is other for mine, other in zip(first, second, strict=True))


async def test_the_newest_two_snapshots_are_kept() -> None:
    source = Source([2000] * 1000)
    cache = ChunkCache(source)
    for revision in range(1, 6):
        await all_chunks(cache, revision, 1000)
        assert len(cache._snapshots) <= CACHED_SNAPSHOTS_MAX
    read = source.read
    await all_chunks(cache, 5, 1000)
    await all_chunks(cache, 4, 1000)
    assert source.read == read


async def test_a_slow_stream_gets_the_same_chunks_from_the_store() -> None:
    source = Source([100_000] * 50)
    cache = ChunkCache(source)
    fresh = await all_chunks(cache, 1, 50)
    for revision in (2, 3):
        await all_chunks(cache, revision, 50)
    read = source.read
    assert await all_chunks(cache, 1, 50) == fresh
    assert source.read > read
    assert {position.revision for position in cache._snapshots} == {2, 3}


async def test_a_snapshot_that_ends_early_is_an_error() -> None:
    with pytest.raises(LookupError):
        await all_chunks(ChunkCache(Source([1] * 3)), 1, 4)


async def all_of_change(cache: ChunkCache, base: int, revision: int) -> list[pb.SyncResponse]:
    """Ask for the chunks of a change as a stream does."""
    chunks: list[pb.SyncResponse] = []
    after_name = ""
    while True:
        request = ChunkRequest(position=at(revision), base=at(base), index=len(chunks), after_name=after_name)
        piece = await cache.get(request)
        if piece is None:
            return chunks
        chunks.append(piece.response)
        after_name = last_name(piece.response.chunk)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.sampled_from([0, 300, 70_000, 250_000, MIB - 200, MIB]), min_size=1, max_size=60))
async def test_a_change_is_all_that_differs_in_order_and_in_bounded_chunks(sizes: list[int]) -> None:
    source = Source(sizes)
    cache = ChunkCache(source)
    chunks = await all_of_change(cache, 1, 2)
    assert names(chunks) == [entry.name for entry in source.entries[1::2]]
    assert [name for chunk in chunks for name in chunk.chunk.removed] == [entry.name for entry in source.entries[::2]]
    for chunk in chunks:
        assert chunk.ByteSize() <= CHUNK_BYTES_MAX or len(chunk.chunk.entries) + len(chunk.chunk.removed) == 1
    assert await all_of_change(cache, 1, 2) == chunks


async def test_streams_share_a_small_change_that_was_read_once() -> None:
    source = Source([300] * 3)
    cache = ChunkCache(source)
    streams = await asyncio.gather(*(all_of_change(cache, 1, 2) for _ in range(100)))
    assert source.read == 3
    assert all(chunks[0] is streams[0][0] for chunks in streams)


async def test_changes_that_are_kept_are_bounded_in_number_and_chunks() -> None:
    source = Source([MIB - 1000] * 6)
    cache = ChunkCache(source)
    for base in range(CACHED_CHANGES_MAX + 5):
        await all_of_change(cache, base, 1000)
    assert len(cache._changes) == CACHED_CHANGES_MAX
    assert {len(cached._chunks) for cached in cache._changes.values()} == {1}


async def test_a_change_can_be_sent_if_its_beginning_is_kept() -> None:
    source = Source([1])
    source.oldest = 5
    cache = ChunkCache(source)
    head = Head(position=at(9), entry_count=1)
    assert await cache.can_send(ChangeRequest(base=at(5), head=head))
    assert not await cache.can_send(ChangeRequest(base=at(4), head=head))
