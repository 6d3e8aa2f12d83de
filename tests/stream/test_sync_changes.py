"""Changes on Sync streams, over real gRPC and a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broadsheet.v1 import registry_service_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.store.retention import Retention
from dataplane.snapshot.change import Change
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position
from dataplane.sync.events import Accepted, Diverged
from tests.stream.sync_world import ControlPlane, DataPlane, control_plane, eventually, hello


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path / "registry") as running:
        yield running


def sent(plane: ControlPlane, mode: str) -> float:
    name = "broadsheet_controlplane_sent_bytes_total"
    return plane.metrics.registry.get_sample_value(name, {"mode": mode}) or 0.0


async def is_sent(plane: ControlPlane, at_least: float) -> bool:
    return sent(plane, "FULL") >= at_least


async def test_after_the_first_snapshot_only_changes_are_sent(plane: ControlPlane) -> None:
    for number in range(200):
        await plane.register(f"m{number}", text="x" * 500)
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        await data_plane.active(200)
        await eventually(lambda: is_sent(plane, 100_000))
        whole = sent(plane, "FULL")
        for number in range(3):
            snapshot = await data_plane.active(await plane.register(f"m{number}", text="y" * 500))
        request = registry_service_pb2.DeleteModelRequest(name="models/m7")
        await plane.registry.DeleteModel(request)
        snapshot = await data_plane.active(204)
        assert "m7" not in snapshot.served
        assert len(snapshot.served) == 199
    assert data_plane.changes == [(200, 201), (201, 202), (202, 203), (203, 204)]
    assert sent(plane, "FULL") == whole
    assert 0 < sent(plane, "DELTA") < 4000


async def test_a_reconnect_resumes_from_what_is_served_and_sends_nothing_that_is_known(plane: ControlPlane) -> None:
    for number in range(20):
        await plane.register(f"m{number}")
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        await data_plane.active(20)
    await eventually(lambda: is_sent(plane, 1000))
    whole = sent(plane, "FULL")
    async with data_plane.running(plane.address):
        await plane.wait_for(20, "dp")
    assert (sent(plane, "FULL"), sent(plane, "DELTA")) == (whole, 0)
    for number in range(5):
        await plane.register(f"n{number}")
    async with data_plane.running(plane.address):
        await data_plane.active(25)
    assert data_plane.changes == [(20, 25)]
    assert sent(plane, "FULL") == whole


async def test_a_data_plane_behind_the_kept_snapshots_gets_the_whole_one(plane: ControlPlane) -> None:
    await plane.register("m0")
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        await data_plane.active(1)
    for number in range(1, 20):
        await plane.register(f"m{number}")
    retention = Retention(snapshots=2, age=Retention().age * 0)
    while await plane.store.compact(retention, None):
        pass
    async with data_plane.running(plane.address):
        assert len((await data_plane.active(20)).served) == 20
        assert data_plane.changes == []
        await data_plane.active(await plane.register("later"))
    assert data_plane.changes == [(20, 21)]


async def test_a_change_that_does_not_come_out_leads_to_the_whole_snapshot(plane: ControlPlane) -> None:
    class Damaged(DataPlane):
        """Loses the first change that it gets."""

        async def on_change(
            self, position: Position, change: Change, signed_head: bytes = b""
        ) -> Accepted | Rejection | Diverged:
            if not self.changes:
                change = Change(base=change.base, entries=(), removed=change.removed)
            return await super().on_change(position, change, signed_head)

    await plane.register("a")
    data_plane = Damaged()
    async with data_plane.running(plane.address):
        await data_plane.active(1)
        assert set((await data_plane.active(await plane.register("b"))).served) == {"a", "b"}
        assert data_plane.rejected == []
        assert set((await data_plane.active(await plane.register("c"))).served) == {"a", "b", "c"}
    assert data_plane.changes == [(1, 2), (2, 3)]


async def test_a_client_of_an_older_release_gets_whole_snapshots(plane: ControlPlane) -> None:
    await plane.register("a")
    stream = plane.snapshots.Sync()
    head = (await plane.store.head()).position
    await plane.register("b")
    have = pb.Hello(
        have={"store_uid": head.store_uid, "revision": head.revision, "digest": head.digest}  # type: ignore[arg-type]
    ).have
    await stream.write(hello(have=have))
    async for message in stream:
        if message.HasField("intent"):
            assert message.intent.mode == pb.Intent.MODE_FULL
        if message.HasField("chunk"):
            assert [entry.ref.name for entry in message.chunk.entries] == ["models/a", "models/b"]
            break
    stream.cancel()
