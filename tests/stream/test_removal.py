"""RemoveDataPlane: what it forgets, at one control plane and at several on one database."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from broadsheet.v1 import audit_pb2, fleet_service_pb2, status_pb2
from tests.postgres_server import PostgresServer
from tests.stream.sync_conditions import is_connected
from tests.stream.sync_world import ControlPlane, DataPlane, control_plane, eventually, hello
from tests.stream.test_access import reason_of
from tests.stream.test_replicas import NOTIFIED

READY = status_pb2.RESOURCE_STATE_READY


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path / "registry") as running:
        yield running


async def remove(plane: ControlPlane, data_plane_id: str = "dp", **fields: Any) -> str:
    """Remove a data plane; the reason of the refusal, or empty."""
    request = fleet_service_pb2.RemoveDataPlaneRequest(name=f"dataPlanes/{data_plane_id}", **fields)
    try:
        response = await plane.fleet.RemoveDataPlane(request)
    except grpc.aio.AioRpcError as error:
        return reason_of(error)
    assert response.data_plane.name == request.name
    return ""


async def is_known(plane: ControlPlane, data_plane_id: str = "dp") -> bool:
    try:
        await plane.data_plane(data_plane_id)
    except grpc.aio.AioRpcError as error:
        return error.code() is not grpc.StatusCode.NOT_FOUND
    return True


async def is_active(plane: ControlPlane) -> bool:
    return bool((await plane.data_plane()).history)


async def listed(plane: ControlPlane) -> list[str]:
    response = await plane.fleet.ListDataPlanes(fleet_service_pb2.ListDataPlanesRequest())
    return [data_plane.name for data_plane in response.data_planes]


async def test_a_data_plane_that_is_gone_is_forgotten_for_good(plane: ControlPlane) -> None:
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        await data_plane.active(0)
        await eventually(lambda: is_connected(plane, True))
        await eventually(lambda: is_active(plane))
    await eventually(lambda: is_connected(plane, False))
    assert await remove(plane, validate_only=True) == ""
    assert await is_known(plane)

    async def has_history() -> bool:
        return bool(await plane.store.data_planes.history("dp"))

    await eventually(has_history)
    assert await remove(plane) == ""
    assert await plane.store.data_planes.history("dp") == []
    assert (await is_known(plane), await listed(plane)) == (False, [])
    assert await remove(plane) == "DATA_PLANE_NOT_FOUND"
    assert await plane.store.get_data_plane("dp") is None
    events = (await plane.registry.ListAuditEvents(audit_pb2.ListAuditEventsRequest())).events
    assert [(event.method, event.resource, event.principal.name) for event in events] == [
        ("RemoveDataPlane", "dataPlanes/dp", "tester")
    ]


async def test_a_connected_data_plane_is_removed_by_force_only_and_may_come_back(plane: ControlPlane) -> None:
    await plane.register("m")
    data_plane = DataPlane()
    request_id = str(uuid.uuid4())
    async with data_plane.running(plane.address):
        await data_plane.active(1)
        await eventually(lambda: is_connected(plane, True))
        assert await remove(plane) == "DATA_PLANE_CONNECTED"
        assert await remove(plane, force=True, request_id=request_id) == ""
        assert not await is_known(plane)
        await data_plane.until(lambda: not data_plane.connections[-1].connected)
        assert data_plane.connections[-1].last_error == "GOODBYE: REMOVED"
    stream = plane.snapshots.Sync()
    await stream.write(hello())
    await eventually(lambda: is_connected(plane, True))
    # A repeat is answered, and changes nothing.
    assert await remove(plane, force=True, request_id=request_id) == ""
    assert await is_connected(plane, True)
    stream.cancel()


async def test_several_control_planes_forget_it_together(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = postgres_server.new_database()
    async with (
        control_plane(tmp_path, url=url, sharing=NOTIFIED) as first,
        control_plane(tmp_path, url=url, sharing=NOTIFIED) as second,
    ):
        await first.register("m")
        data_plane = DataPlane()
        async with data_plane.running(first.address):
            await data_plane.active(1)
            data_plane.report({"models/m": READY})
            await eventually(lambda: is_connected(second, True))
            assert await remove(second) == "DATA_PLANE_CONNECTED"
            with capture_logs():
                assert await remove(second, force=True) == ""
                await data_plane.until(lambda: not data_plane.connections[-1].connected)
            assert data_plane.connections[-1].last_error == "GOODBYE: REMOVED"
            assert not await is_known(first)
            assert not await is_known(second)
        # It comes back, at the other one.
        async with data_plane.running(second.address):

            async def is_whole() -> bool:
                if not await is_connected(first, True):
                    return False
                shown = await first.data_plane()
                return shown.serving.revision == 1

            await eventually(is_whole)
            data_plane.report({"models/m": READY})

            async def shows_its_states() -> bool:
                return [status.name for status in (await first.data_plane()).resources] == ["models/m"]

            await eventually(shows_its_states)
