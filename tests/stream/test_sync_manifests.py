"""Manifests on Sync streams, over real gRPC and a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc.aio
import pytest

from broadsheet.v1 import registry_service_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import position_to_proto
from controlplane.push import cutting
from controlplane.store.retention import Retention
from dataplane.snapshot.change import Change
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position
from dataplane.sync.client import SyncCall
from dataplane.sync.events import Accepted, Diverged
from tests.stream.sync_conditions import is_connected, is_sent, read_to_the_end, sent
from tests.stream.sync_world import ControlPlane, DataPlane, control_plane, eventually, hello

BLOB_BYTES_MIN = 500


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path / "registry") as running:
        yield running


async def register(plane: ControlPlane, count: int) -> int:
    revision = 0
    for number in range(count):
        revision = await plane.register(f"m{number}", text="x" * BLOB_BYTES_MIN)
    return revision


async def forget_old_snapshots(plane: ControlPlane) -> None:
    """Keep the two newest snapshots only."""
    while await plane.store.compact(Retention(snapshots=2, age=Retention().age * 0), None):
        pass


class Damaged(DataPlane):
    """Loses the entries of the first changes that it gets."""

    def __init__(self, *, damaged: int) -> None:
        super().__init__()
        self._damaged = damaged

    async def on_change(self, position: Position, change: Change) -> Accepted | Rejection | Diverged:
        if len(self.changes) < self._damaged:
            change = Change(base=change.base, entries=(), removed=change.removed)
        return await super().on_change(position, change)


async def test_a_change_that_did_not_come_out_is_repaired_by_what_is_missing(plane: ControlPlane) -> None:
    await register(plane, 100)
    data_plane = Damaged(damaged=1)
    async with data_plane.running(plane.address):
        await data_plane.active(100)
        await eventually(lambda: is_sent(plane, 50_000))
        whole = sent(plane, "FULL")
        snapshot = await data_plane.active(await plane.register("b", text="y" * BLOB_BYTES_MIN))
        assert len(snapshot.served) == 101
        await data_plane.active(await plane.register("c"))
    assert data_plane.changes == [(100, 101), (100, 101), (101, 102)]
    assert data_plane.rejected == []
    assert sent(plane, "FULL") == whole
    assert 100 * 50 < sent(plane, "MANIFEST") < 100 * 90 + 2 * BLOB_BYTES_MIN, "101 refs and a blob"


async def test_a_manifest_that_does_not_come_out_either_is_followed_by_the_whole_snapshot(plane: ControlPlane) -> None:
    await register(plane, 3)
    data_plane = Damaged(damaged=2)
    async with data_plane.running(plane.address):
        await data_plane.active(3)
        await eventually(lambda: is_sent(plane, 1500))
        whole = sent(plane, "FULL")
        assert len((await data_plane.active(await plane.register("b"))).served) == 4
        assert sent(plane, "FULL") > whole
    assert data_plane.changes == [(3, 4), (3, 4)]
    assert data_plane.rejected == []


async def test_a_data_plane_behind_the_kept_snapshots_gets_what_it_lacks(plane: ControlPlane) -> None:
    await register(plane, 40)
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        await data_plane.active(40)
    for number in range(5):
        await plane.register(f"n{number}")
    await plane.registry.DeleteModel(registry_service_pb2.DeleteModelRequest(name="models/m7"))
    await forget_old_snapshots(plane)
    whole = sent(plane, "FULL")
    async with data_plane.running(plane.address):
        snapshot = await data_plane.active(46)
        assert len(snapshot.served) == 44
        assert "m7" not in snapshot.served
        await data_plane.active(await plane.register("later"))
    assert data_plane.changes == [(40, 46), (46, 47)]
    assert sent(plane, "FULL") == whole
    assert sent(plane, "MANIFEST") < 44 * 90 + 5 * BLOB_BYTES_MIN


async def test_a_manifest_in_which_nothing_is_missing_sends_no_blob(plane: ControlPlane) -> None:
    await register(plane, 10)
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        await data_plane.active(10)
    for number in range(3):
        await plane.register(f"passing{number}", text="y" * BLOB_BYTES_MIN)
        await plane.registry.DeleteModel(registry_service_pb2.DeleteModelRequest(name=f"models/passing{number}"))
    await forget_old_snapshots(plane)
    revision = (await plane.store.head()).position.revision
    async with data_plane.running(plane.address):
        assert len((await data_plane.active(revision)).served) == 10
    assert 0 < sent(plane, "MANIFEST") < 10 * 90


async def test_a_manifest_takes_as_many_chunks_as_it_needs(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = await plane.fill(500, text="")
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        await data_plane.active(revision)
    for name in ("a", "m499", "zz"):
        await plane.register(name, text="different")
    await forget_old_snapshots(plane)
    monkeypatch.setattr(cutting, "CHUNK_BYTES_MAX", 5000)
    async with data_plane.running(plane.address):
        snapshot = await data_plane.active(revision + 3)
    assert len(snapshot.served) == 502
    assert data_plane.changes == [(revision, revision + 3)]
    assert 5000 < sent(plane, "MANIFEST") < 502 * 90


async def behind(plane: ControlPlane, data_plane_id: str = "dp") -> SyncCall:
    """A stream of a data plane that has a snapshot that is not kept, up to the first refs."""
    head = position_to_proto((await plane.store.head()).position)
    await plane.register("b")
    await plane.register("c")
    await forget_old_snapshots(plane)
    stream = plane.snapshots.Sync()
    await stream.write(hello(data_plane_id, have=head, features=[pb.FEATURE_DELTA, pb.FEATURE_MANIFEST]))
    return stream


async def next_of(stream: SyncCall, kind: str) -> pb.SyncResponse:
    """The next message that is no Heartbeat; it is of this kind."""
    while True:
        message = await stream.read()
        assert isinstance(message, pb.SyncResponse), "the stream has ended"
        if message.WhichOneof("message") != "heartbeat":
            assert message.WhichOneof("message") == kind, message
            return message


async def read_refs(stream: SyncCall) -> tuple[pb.Intent, Sequence[bytes]]:
    intent = (await next_of(stream, "intent")).intent
    assert intent.mode == pb.Intent.MODE_MANIFEST
    chunk = (await next_of(stream, "chunk")).chunk
    assert not chunk.entries
    return intent, [ref.digest for ref in chunk.refs]


async def answer(stream: SyncCall, intent: pb.Intent, *digests: bytes) -> None:
    await stream.write(pb.SyncRequest(want=pb.Want(to=intent.to, digests=digests)))


async def test_only_the_newest_commit_follows_a_manifest(plane: ControlPlane) -> None:
    await plane.register("a")
    stream = await behind(plane)
    intent, digests = await read_refs(stream)
    for name in "defg":
        await plane.register(name)
    await answer(stream, intent, digests[1])
    wanted = (await next_of(stream, "chunk")).chunk
    assert [entry.ref.name for entry in wanted.entries] == ["models/b"]
    assert (await next_of(stream, "commit")).commit.to == intent.to
    active = pb.Status(target=intent.to, serving=intent.to, phase=pb.PHASE_ACTIVE)
    await stream.write(pb.SyncRequest(status=active))
    following = (await next_of(stream, "intent")).intent
    assert following.mode == pb.Intent.MODE_DELTA
    assert following.to.revision == intent.to.revision + 4
    stream.cancel()


async def test_a_data_plane_that_was_cut_off_in_a_manifest_begins_again(plane: ControlPlane) -> None:
    await register(plane, 3)
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        await data_plane.active(3)
    stream = await behind(plane)
    await read_refs(stream)
    stream.cancel()
    async with data_plane.running(plane.address):
        assert len((await data_plane.active(5)).served) == 5
    assert data_plane.changes == [(3, 5)]


async def test_a_control_plane_that_crashes_in_a_manifest_is_followed_by_another(tmp_path: Path) -> None:
    data_plane = DataPlane()
    async with control_plane(tmp_path / "registry", orderly=False) as plane:
        await register(plane, 3)
        async with data_plane.running(plane.address):
            await data_plane.active(3)
        await read_refs(await behind(plane))
    async with control_plane(tmp_path / "registry") as plane, data_plane.running(plane.address):
        assert len((await data_plane.active(5)).served) == 5
    assert data_plane.changes == [(3, 5)]


@pytest.mark.parametrize(
    "digests",
    [[b"\x07" * 32], [b"short"], [bytes([number % 251, number // 251]) * 16 for number in range(20_001)]],
    ids=["unknown", "short", "many"],
)
async def test_a_hostile_want_ends_its_own_stream_only(plane: ControlPlane, digests: Sequence[bytes]) -> None:
    await register(plane, 3)
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        await data_plane.active(3)
        stream = await behind(plane, data_plane_id="hostile")
        intent, _ = await read_refs(stream)
        await answer(stream, intent, *digests)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await read_to_the_end(stream)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await eventually(lambda: is_connected(plane, False, "hostile"))
        await data_plane.active(await plane.register("later"))


async def test_a_want_for_everything_costs_no_more_than_everything(plane: ControlPlane) -> None:
    await register(plane, 3)
    stream = await behind(plane)
    intent, digests = await read_refs(stream)
    await answer(stream, intent, *digests)
    chunk = (await next_of(stream, "chunk")).chunk
    assert [entry.ref.digest for entry in chunk.entries] == digests
    await next_of(stream, "commit")
    stream.cancel()


async def test_a_client_without_manifests_gets_the_whole_snapshot(plane: ControlPlane) -> None:
    await register(plane, 2)
    head = position_to_proto((await plane.store.head()).position)
    await register(plane, 4)
    await forget_old_snapshots(plane)
    stream = plane.snapshots.Sync()
    await stream.write(hello(have=head, features=[pb.FEATURE_DELTA]))
    assert (await next_of(stream, "intent")).intent.mode == pb.Intent.MODE_FULL
    assert len((await next_of(stream, "chunk")).chunk.entries) == 4
    stream.cancel()
