"""FleetService: waiting for a revision, and the list of data planes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from broadsheet.v1 import fleet_service_pb2
from controlplane.fleet.state import FleetLimits
from dataplane.snapshot.snapshot import Position
from tests.stream import sync_world
from tests.stream.sync_conditions import (
    is_connected,
)
from tests.stream.sync_world import ControlPlane, DataPlane, control_plane, eventually, hello
from tests.unit.controlplane.fleet_world import at, record

Outcome = fleet_service_pb2.DataPlaneOutcome


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path / "registry") as running:
        yield running


async def test_waiting_distinguishes_pending_and_missing(plane: ControlPlane) -> None:
    call = plane.snapshots.Sync()
    await call.write(hello("slow"))
    await call.read()
    response = await plane.wait_for(0, "slow", "unheard-of", timeout_s=0.1)
    assert [outcome.outcome for outcome in response.outcomes] == [Outcome.OUTCOME_PENDING, Outcome.OUTCOME_MISSING]
    assert not response.active_everywhere
    call.cancel()


async def test_waiting_ends_when_the_revision_is_active(plane: ControlPlane) -> None:
    data_plane = DataPlane()
    decided = asyncio.Event()

    async def decide(position: Position) -> None:
        await decided.wait()

    data_plane = DataPlane(decide=decide)
    async with data_plane.running(plane.address):
        await eventually(lambda: is_connected(plane, True))
        waiting = asyncio.create_task(plane.wait_for(0))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        decided.set()
        response = await waiting
    assert [outcome.outcome for outcome in response.outcomes] == [Outcome.OUTCOME_ACTIVE]
    assert response.active_everywhere


async def test_with_no_data_plane_nothing_is_active(plane: ControlPlane) -> None:
    response = await plane.wait_for(0)
    assert not response.outcomes
    assert not response.active_everywhere


async def test_a_revision_that_does_not_exist_is_not_waited_for(plane: ControlPlane) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await plane.wait_for(1)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_unknown_data_plane_is_not_found(plane: ControlPlane) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await plane.data_plane("nobody")
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


async def test_data_planes_are_listed_in_pages(plane: ControlPlane) -> None:
    ids = [f"dp-{number}" for number in range(5)]
    calls = [plane.snapshots.Sync() for _ in ids]
    for call, data_plane_id in zip(calls, ids, strict=True):
        await call.write(hello(data_plane_id))
        await call.read()
    listed, token = [], ""
    while True:
        request = fleet_service_pb2.ListDataPlanesRequest(page_size=2, page_token=token)
        page = await plane.fleet.ListDataPlanes(request)
        listed += [data_plane.name for data_plane in page.data_planes]
        token = page.next_page_token
        if not token:
            break
    assert listed == [f"dataPlanes/{data_plane_id}" for data_plane_id in ids]
    for call in calls:
        call.cancel()


async def test_stored_data_planes_are_found_while_the_memory_is_full_of_connected_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_world, "FLEET_LIMITS", FleetLimits(data_planes_max=1))
    async with control_plane(tmp_path / "registry") as plane:
        for data_plane_id in ("a-stored", "z-stored"):
            await plane.store.upsert_data_plane(record(data_plane_id, serving=at(0)))
        data_plane = DataPlane()
        async with data_plane.running(plane.address, "live"):
            await data_plane.active(0)
            await eventually(lambda: is_connected(plane, True, "live"))
            assert (await plane.data_plane("a-stored")).instance_uid == "stored"
            pages: list[list[tuple[str, bool]]] = []
            token = ""
            while token or not pages:
                request = fleet_service_pb2.ListDataPlanesRequest(page_size=1, page_token=token)
                page = await plane.fleet.ListDataPlanes(request)
                pages.append([(shown.name, shown.connected) for shown in page.data_planes])
                token = page.next_page_token
            assert pages == [
                [("dataPlanes/a-stored", False)],
                [("dataPlanes/live", True)],
                [("dataPlanes/z-stored", False)],
            ]
            named = await plane.wait_for(0, "z-stored")
            assert [(outcome.outcome, outcome.HasField("serving")) for outcome in named.outcomes] == [
                (Outcome.OUTCOME_MISSING, True)
            ]
            everywhere = await plane.wait_for(0)
            assert [outcome.data_plane for outcome in everywhere.outcomes] == [name for ((name, _),) in pages]
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await plane.data_plane("unheard-of")
            assert raised.value.code() is grpc.StatusCode.NOT_FOUND
