"""Clients that break the protocol, and a store that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from broadsheet.v1 import fleet_service_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from controlplane.catalog.domain import DataPlaneRecord
from controlplane.push.subscription.timing import Limits
from controlplane.store.store import Store
from tests.stream.sync_conditions import (
    chunks_written,
    is_connected,
    is_kept,
    read_to_the_end,
)
from tests.stream.sync_world import LIMITS, ControlPlane, DataPlane, control_plane, eventually, hello

Outcome = fleet_service_pb2.DataPlaneOutcome


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path / "registry") as running:
        yield running


async def test_a_stalled_reader_costs_little_and_blocks_no_other_stream(tmp_path: Path) -> None:
    limits = Limits(heartbeat_s=0.1, hello_timeout_s=0.5, answer_timeout_s=60.0, silence_timeout_s=8.0)
    async with control_plane(tmp_path / "registry", limits=limits) as plane:
        revision = await plane.fill(1500, text="x" * 16_000)
        async with grpc.aio.insecure_channel(plane.address) as channel:
            stalled = SnapshotServiceStub(channel).Sync()
            await stalled.write(hello("stalled"))
            await eventually(lambda: is_connected(plane, True, "stalled"))
            data_plane = DataPlane()
            async with data_plane.running(plane.address):
                snapshot = await data_plane.active(revision)
                assert len(snapshot.models) == 1500
                (stream,) = (stream for stream in plane.fan_out._streams if stream.data_plane_id == "stalled")
                # 24 MB are to be sent; without a reader gRPC takes about 4 MiB.
                written = chunks_written(stream)
                assert written <= 8
                for number in range(5):
                    await data_plane.active(await plane.register(f"n{number}"))
                assert chunks_written(stream) == written
                (mine, other) = (await plane.wait_for(revision + 5, "dp", "stalled", timeout_s=0)).outcomes
                assert (mine.outcome, other.outcome) == (Outcome.OUTCOME_ACTIVE, Outcome.OUTCOME_PENDING)
                await eventually(lambda: is_connected(plane, False, "stalled"))
            stalled.cancel()


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (pb.SyncRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.SyncRequest(status=pb.Status()), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.SyncRequest(hello=pb.Hello(data_plane="NOT AN ID")), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_the_first_message_must_be_a_valid_hello(
    plane: ControlPlane, first: pb.SyncRequest, code: grpc.StatusCode
) -> None:
    call = plane.snapshots.Sync()
    await call.write(first)
    assert await call.code() == code
    response = await plane.fleet.ListDataPlanes(fleet_service_pb2.ListDataPlanesRequest())
    assert not response.data_planes


async def test_an_illegal_status_ends_the_stream(plane: ControlPlane) -> None:
    call = plane.snapshots.Sync()
    await call.write(hello())
    await call.read()
    await call.write(hello())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await read_to_the_end(call)
    assert raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    await eventually(lambda: is_connected(plane, False))


async def test_a_violation_while_the_first_message_is_written_ends_the_stream_with_its_status(
    plane: ControlPlane,
) -> None:
    # gRPC once failed to send a status in one of ten such streams.
    async with asyncio.timeout(30):
        for _ in range(100):
            call = plane.snapshots.Sync()
            await call.write(hello())
            await call.write(hello())
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await read_to_the_end(call)
            assert raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_a_silent_client_is_disconnected(plane: ControlPlane) -> None:
    call = plane.snapshots.Sync()
    async with asyncio.timeout(LIMITS.hello_timeout_s + 5):
        assert await call.code() == grpc.StatusCode.UNAVAILABLE


class FailingStore:
    """The real store, but data planes cannot be written while it is `failing`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.failing = True
        self.get_data_plane = store.get_data_plane
        self.read_entries = store.read_entries
        self.read_changes = store.read_changes
        self.holds = store.holds

    async def upsert_data_plane(self, *records: DataPlaneRecord) -> None:
        if self.failing:
            raise OSError("the disk is full")
        await self._store.upsert_data_plane(*records)


async def test_a_failing_store_ends_no_stream_and_catches_up(tmp_path: Path) -> None:
    stores: list[FailingStore] = []

    def wrap(store: Store) -> FailingStore:
        stores.append(FailingStore(store))
        return stores[0]

    data_plane = DataPlane()
    async with control_plane(tmp_path / "registry", wrap_store=wrap) as plane, data_plane.running(plane.address):
        await data_plane.active(await plane.register("m1"))
        assert (await plane.wait_for(1, "dp")).active_everywhere
        assert await plane.store.get_data_plane("dp") is None
        stores[0].failing = False
        await eventually(lambda: is_kept(plane))
        assert [connection.connected for connection in data_plane.connections] == [True]
