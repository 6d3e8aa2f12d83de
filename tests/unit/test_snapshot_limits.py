"""The limits of a snapshot fit together: what one place lets in, no other refuses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from controlplane.catalog.domain import Entry, Position
from controlplane.push.chunks import ChunkCache
from controlplane.push.entry_source import Change
from controlplane.push.subscription.transfer import ChunkRequest, PieceRequest, WantedRequest
from controlplane.store.entries import EntryChange
from dataplane.relay.state import Limits as RelayLimits
from dataplane.snapshot.policy import Limits
from dataplane.sync.channel import channel_options
from protocol import names
from protocol.catalog_digest import blob_digest
from protocol.snapshot_limits import BLOB_BYTES_MAX, CHUNK_BYTES_MAX, ENTRIES_MAX, SNAPSHOT_BYTES_MAX

RELAYED_ENTRY_OVERHEAD_BYTES = 100
"""A digest of 32 bytes, and the framing of four values in a pickle."""


def test_the_relay_holds_the_largest_snapshot() -> None:
    assert RelayLimits().bytes_max >= SNAPSHOT_BYTES_MAX + ENTRIES_MAX * RELAYED_ENTRY_OVERHEAD_BYTES


def test_a_data_plane_takes_the_largest_snapshot() -> None:
    limits = Limits()
    assert limits.entries_max >= ENTRIES_MAX
    assert limits.blob_bytes_max >= BLOB_BYTES_MAX
    assert limits.total_bytes_max >= SNAPSHOT_BYTES_MAX


class LargeEntries:
    """A snapshot whose every entry is as large as it may be."""

    async def read_entries(self, revision: int, *, after_name: str, limit: int) -> list[Entry]:
        blob = bytes(BLOB_BYTES_MAX)
        return [
            Entry(name=name, type="broadsheet.v1.ModelEntry", digest=blob_digest(blob), blob=blob)
            for name in NAMES
            if name > after_name
        ][:limit]

    async def read_changes(self, base: Position, to_revision: int, *, after_name: str, limit: int) -> Sequence[Change]:
        entries = await self.read_entries(to_revision, after_name=after_name, limit=limit)
        return [EntryChange(name=entry.name, entry=entry) for entry in entries]

    async def read_refs(self, revision: int, *, after_name: str, limit: int) -> Sequence[Entry]:
        return await self.read_entries(revision, after_name=after_name, limit=limit)

    async def read_named(self, revision: int, names: Sequence[str]) -> Sequence[Entry]:
        return [entry for entry in await self.read_entries(revision, after_name="", limit=20) if entry.name in names]

    async def holds(self, position: Position) -> bool:
        return True


AT = Position(store_uid="s", revision=1, digest=bytes(32))
NAMES = tuple(f"models/{number:0{names.RESOURCE_ID_LENGTH_MAX}}" for number in range(20))


@pytest.mark.parametrize(
    "request_",
    [
        ChunkRequest(position=AT, index=0, after_name=""),
        ChunkRequest(position=AT, base=Position(store_uid="s", revision=0, digest=bytes(32)), index=0, after_name=""),
        WantedRequest(position=AT, names=NAMES, after_name=""),
    ],
)
async def test_a_data_plane_reads_the_largest_message(request_: PieceRequest) -> None:
    piece = await ChunkCache(LargeEntries()).get(request_)
    assert piece is not None
    read_max = dict(channel_options("127.0.0.1:1"))["grpc.max_receive_message_length"]
    assert BLOB_BYTES_MAX < len(piece.content) <= CHUNK_BYTES_MAX + BLOB_BYTES_MAX < read_max
