from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.domain import Entry, Head, Position
from controlplane.push.chunks import CACHED_CHANGES_MAX, CACHED_SNAPSHOTS_MAX, CACHED_WANTED_MAX, ChunkCache
from controlplane.push.cutting import Piece
from controlplane.push.subscription.transfer import ChangeRequest, ChunkRequest, RefsRequest, WantedRequest
from protocol.snapshot_limits import CHUNK_BYTES_MAX

MIB = 1024 * 1024
WANTED_MAX = 20_000
"""Digests of a Want, by the rules in the protos."""


class Source:
    """A store with the same entries at every revision, which counts what is read."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.entries = [
            Entry(name=f"models/m{number:05}", type="t", digest=bytes(32), blob=bytes(size))
            for number, size in enumerate(sizes)
        ]
        self.read = 0
        self.oldest = 0
        self.asked = 0

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

    async def read_refs(self, revision: int, *, after_name: str, limit: int) -> Sequence[Entry]:
        return await self.read_entries(revision, after_name=after_name, limit=limit)

    async def read_named(self, revision: int, names: Sequence[str]) -> Sequence[Entry]:
        await asyncio.sleep(0)
        self.read += len(names)
        return [entry for entry in self.entries if entry.name in names]

    async def holds(self, position: Position) -> bool:
        self.asked += 1
        await asyncio.sleep(0)
        return position.revision >= self.oldest


@dataclass(frozen=True)
class Change:
    name: str
    entry: Entry | None


def at(revision: int) -> Position:
    return Position(store_uid="s", revision=revision, digest=bytes(32))


async def all_pieces(cache: ChunkCache, revision: int, count: int) -> list[Piece]:
    """Ask for chunks as a stream does, until `count` entries have come."""
    pieces: list[Piece] = []
    last_name, written = "", 0
    while written < count:
        request = ChunkRequest(position=at(revision), index=len(pieces), after_name=last_name)
        piece = await cache.get(request)
        assert piece is not None
        pieces.append(piece)
        written += piece.written.entries
        last_name = piece.written.last_name
    return pieces


async def all_chunks(cache: ChunkCache, revision: int, count: int) -> list[pb.SyncResponse]:
    return [pb.SyncResponse.FromString(piece.content) for piece in await all_pieces(cache, revision, count)]


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
    first, second = await asyncio.gather(all_pieces(cache, 1, 3000), all_pieces(cache, 1, 3000))
    assert source.read == 3000
    assert all(mine.content is other.content for mine, other in zip(first, second, strict=True))


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


async def pieces_of_change(cache: ChunkCache, base: int, revision: int) -> list[Piece]:
    """Ask for the chunks of a change as a stream does."""
    pieces: list[Piece] = []
    after_name = ""
    while True:
        request = ChunkRequest(position=at(revision), base=at(base), index=len(pieces), after_name=after_name)
        piece = await cache.get(request)
        if piece is None:
            return pieces
        pieces.append(piece)
        after_name = piece.written.last_name


async def all_of_change(cache: ChunkCache, base: int, revision: int) -> list[pb.SyncResponse]:
    return [pb.SyncResponse.FromString(piece.content) for piece in await pieces_of_change(cache, base, revision)]


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
    streams = await asyncio.gather(*(pieces_of_change(cache, 1, 2) for _ in range(100)))
    assert source.read == 3
    assert all(pieces[0].content is streams[0][0].content for pieces in streams)


async def test_changes_that_are_kept_are_bounded_in_number_and_chunks() -> None:
    source = Source([MIB - 1000] * 6)
    cache = ChunkCache(source)
    for base in range(CACHED_CHANGES_MAX + 5):
        await all_of_change(cache, base, 1000)
    assert len(cache._changes) == CACHED_CHANGES_MAX
    kept = [first.piece for first in cache._changes._kept.values()]
    assert all(piece is not None and len(piece.content) <= MIB for piece in kept)


async def test_a_change_can_be_sent_if_its_beginning_is_kept() -> None:
    source = Source([1])
    source.oldest = 5
    cache = ChunkCache(source)
    head = Head(position=at(9), entry_count=1)
    assert await cache.can_send(ChangeRequest(base=at(5), head=head))
    assert not await cache.can_send(ChangeRequest(base=at(4), head=head))


async def test_a_fleet_that_asks_about_a_change_at_once_asks_the_database_once() -> None:
    source = Source([1])
    cache = ChunkCache(source)
    request = ChangeRequest(base=at(5), head=Head(position=at(9), entry_count=1))
    assert all(await asyncio.gather(*(cache.can_send(request) for _ in range(100))))
    assert source.asked == 1


async def test_a_change_whose_beginning_is_gone_is_sent_only_if_all_of_it_is_cached() -> None:
    for sizes, can_send in (([300], True), ([MIB - 1000] * 6, False)):
        source = Source(sizes)
        cache = ChunkCache(source)
        await cache.get(ChunkRequest(position=at(9), base=at(5), index=0, after_name=""))
        source.oldest = 6
        request = ChangeRequest(base=at(5), head=Head(position=at(9), entry_count=1))
        assert await cache.can_send(request) is can_send


async def test_refs_are_those_of_all_entries_in_bounded_chunks() -> None:
    source = Source([0] * 20_000)
    cache = ChunkCache(source)
    names_read: list[str] = []
    while len(names_read) < 20_000:
        piece = await cache.get(RefsRequest(position=at(1), after_name=names_read[-1] if names_read else ""))
        assert piece is not None
        chunk = pb.SyncResponse.FromString(piece.content).chunk
        assert len(piece.content) <= CHUNK_BYTES_MAX
        assert not chunk.entries
        assert piece.written.refs_count == len(chunk.refs) < WANTED_MAX
        names_read += [ref.name for ref in chunk.refs]
    assert names_read == [entry.name for entry in source.entries]


async def test_streams_share_refs_and_what_all_of_them_want() -> None:
    source = Source([300] * 30)
    cache = ChunkCache(source)
    wanted = tuple(entry.name for entry in source.entries[::10])
    for request, read in (
        (RefsRequest(position=at(1), after_name=""), 30),
        (WantedRequest(position=at(1), names=wanted, after_name=""), 3),
    ):
        source.read = 0
        pieces = await asyncio.gather(*(cache.get(request) for _ in range(100)))
        assert source.read == read
        assert len({id(piece) for piece in pieces}) == 1


@pytest.mark.parametrize("sizes", [[300] * 3000, [250_000] * 20])
async def test_wanted_entries_come_in_order_and_in_bounded_chunks(sizes: list[int]) -> None:
    source = Source(sizes)
    cache = ChunkCache(source)
    wanted = tuple(entry.name for entry in source.entries[1::2])
    sent: list[str] = []
    while len(sent) < len(wanted):
        piece = await cache.get(WantedRequest(position=at(1), names=wanted, after_name=sent[-1] if sent else ""))
        assert piece is not None
        assert len(piece.content) <= CHUNK_BYTES_MAX + 250_000
        sent += names([pb.SyncResponse.FromString(piece.content)])
    assert sent == list(wanted)
    assert len(cache._wanted) <= CACHED_WANTED_MAX


async def test_a_wanted_entry_that_the_snapshot_lacks_is_an_error() -> None:
    request = WantedRequest(position=at(1), names=("models/m00000", "models/none"), after_name="")
    with pytest.raises(LookupError, match="lacks 1 entries"):
        await ChunkCache(Source([1])).get(request)
