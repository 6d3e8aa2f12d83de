"""Streams that end and begin again: restarts, successors, timeouts, lost files."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from broadsheet.v1 import fleet_service_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.push.subscription.timing import Limits
from dataplane.snapshot.accept import accept
from dataplane.snapshot.snapshot import Position
from dataplane.sync.directory import SnapshotDirectory
from dataplane.sync.disk.file_disk import FileDisk
from tests.raw import POLICY
from tests.stream.sync_conditions import (
    holds,
    is_connected,
    serves,
)
from tests.stream.sync_world import TIMING, ControlPlane, DataPlane, control_plane, eventually

Outcome = fleet_service_pb2.DataPlaneOutcome


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path / "registry") as running:
        yield running


@pytest.mark.parametrize("orderly", [True, False])
async def test_data_planes_reconnect_to_a_restarted_control_plane(tmp_path: Path, orderly: bool) -> None:
    data_plane = DataPlane()
    async with control_plane(tmp_path / "registry", orderly=orderly) as first:
        address = first.address
        client = data_plane.running(address)
        await client.__aenter__()
        await first.register("m1")
        await data_plane.active(1)
    await data_plane.until(lambda: not data_plane.connections[-1].connected)
    await asyncio.sleep(0.3)
    assert data_plane.snapshot is not None
    async with control_plane(tmp_path / "registry", listen=address) as second:
        revision = await second.register("m2")
        assert set((await data_plane.active(revision)).served) == {"m1", "m2"}
        await client.__aexit__(None, None, None)
    assert data_plane.activated[-2:] == [1, 2]


async def test_the_record_of_a_data_plane_outlives_the_control_plane(tmp_path: Path) -> None:
    data_plane = DataPlane()
    async with control_plane(tmp_path / "registry") as first, data_plane.running(first.address):
        await first.register("m1")
        await first.wait_for(1, "dp")
    async with control_plane(tmp_path / "registry") as second:
        shown = await second.data_plane()
        assert not shown.connected
        assert (shown.serving.revision, shown.phase) == (1, pb.PHASE_ACTIVE)
        (outcome,) = (await second.wait_for(1)).outcomes
        assert (outcome.outcome, outcome.serving.revision) == (Outcome.OUTCOME_MISSING, 1)
        response = await second.fleet.ListDataPlanes(fleet_service_pb2.ListDataPlanesRequest())
        assert [data_plane.name for data_plane in response.data_planes] == ["dataPlanes/dp"]


async def test_a_second_stream_supersedes_the_first(plane: ControlPlane) -> None:
    first, second = DataPlane(), DataPlane()
    async with first.running(plane.address):
        await first.active(0)
        async with second.running(plane.address, instance_uid="instance-2"):
            await second.active(0)
            await first.until(lambda: not first.connections[-1].connected)
            assert first.connections[-1].last_error == "GOODBYE: SUPERSEDED"
            await second.active(await plane.register("m1"))
            await plane.wait_for(1, "dp")
            shown = await plane.data_plane()
            assert (shown.connected, shown.instance_uid) == (True, "instance-2")
            await asyncio.sleep(0.5)  # its Goodbye asks for a longer wait
            assert [connection.connected for connection in first.connections] == [True, False]
            assert [connection.connected for connection in second.connections] == [True]
    assert first.activated == [0]


async def test_a_lost_connection_is_shown_and_reestablished(plane: ControlPlane) -> None:
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        await data_plane.active(0)
    await eventually(lambda: is_connected(plane, False))
    async with data_plane.running(plane.address):
        await eventually(lambda: is_connected(plane, True))


async def test_a_silent_server_is_disconnected(tmp_path: Path) -> None:
    server = grpc.aio.server()
    silence = asyncio.Event()

    async def say_nothing(request_iterator: AsyncIterator[pb.SyncRequest], context: object) -> None:
        await silence.wait()

    handler = grpc.stream_stream_rpc_method_handler(
        say_nothing, pb.SyncRequest.FromString, pb.SyncResponse.SerializeToString
    )
    generic = grpc.method_handlers_generic_handler("broadsheet.v1.SnapshotService", {"Sync": handler})
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    data_plane = DataPlane()
    async with data_plane.running(f"127.0.0.1:{port}"):
        await data_plane.until(lambda: len(data_plane.connections) >= 2)
    silence.set()
    await server.stop(0)
    assert data_plane.connections[0].last_error.startswith("SILENT")
    assert not any(connection.connected for connection in data_plane.connections)


async def test_a_slow_decision_ends_the_stream_and_still_counts(tmp_path: Path) -> None:
    limits = Limits(heartbeat_s=0.1, answer_timeout_s=0.5, silence_timeout_s=5.0)
    decided = asyncio.Event()

    async def decide(position: Position) -> None:
        if position.revision:
            await decided.wait()

    data_plane = DataPlane(decide=decide)
    async with control_plane(tmp_path / "registry", limits=limits) as plane, data_plane.running(plane.address):
        await data_plane.active(0)
        await plane.register("m1")
        await data_plane.until(lambda: data_plane.connections[-1].last_error == "GOODBYE: ANSWER_TIMEOUT")
        await asyncio.sleep(1.5)  # a new stream waits for the decision
        assert not data_plane.connections[-1].connected
        decided.set()
        await data_plane.active(1)
        assert (await plane.wait_for(1, "dp", timeout_s=0)).outcomes[0].outcome != Outcome.OUTCOME_ACTIVE
        await eventually(lambda: serves(plane, 1))
        assert data_plane.offered == [0, 1]


async def test_a_data_plane_with_a_damaged_file_is_sent_its_snapshot_again(plane: ControlPlane, tmp_path: Path) -> None:
    data_plane = DataPlane()
    disk = SnapshotDirectory(FileDisk(tmp_path / "catalog"))
    disk.open()
    async with data_plane.running(plane.address):
        for number in (1, 2):
            snapshot = await data_plane.active(await plane.register(f"m{number}"))
            disk.save(snapshot)
    disk.close()
    current = (tmp_path / "catalog" / "CURRENT").read_text().strip()
    (tmp_path / "catalog" / "snapshots" / current).write_bytes(b"damage")

    disk.open()
    boot = disk.boot(functools.partial(accept, held=None, policy=POLICY))
    assert boot.snapshot is not None
    assert boot.snapshot.position.revision == 1
    restarted = DataPlane()
    restarted.snapshot = boot.snapshot
    restarted.rejected = list(boot.rejected)
    async with restarted.running(plane.address, instance_uid="instance-2"):
        await restarted.active(2)
    disk.close()


async def test_a_stopped_client_leaves_no_task_behind(plane: ControlPlane) -> None:
    before = asyncio.all_tasks()
    data_plane = DataPlane()
    async with data_plane.running(plane.address, timing=TIMING):
        await data_plane.active(0)
    await eventually(lambda: is_connected(plane, False))
    await eventually(lambda: holds(not {task for task in asyncio.all_tasks() - before if "sync_client" in repr(task)}))


async def test_reconnects_spread_out(plane: ControlPlane) -> None:
    """Full jitter from the first attempt on, also after a Goodbye."""
    data_plane = DataPlane()
    async with data_plane.running(plane.address) as client:
        await data_plane.active(0)
        waits: list[tuple[float, float]] = []

        def uniform(low: float, high: float) -> float:
            waits.append((low, high))
            return low

        client._uniform = uniform
        await plane.fan_out.shutdown()
        await data_plane.until(lambda: len(waits) >= 3)
    assert all(low == 0.0 for low, _ in waits)
    assert [high for _, high in waits[:3]] == [0.04, 0.08, 0.1]
