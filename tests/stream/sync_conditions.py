"""Conditions that tests of Sync streams wait for."""

from __future__ import annotations

import grpc.aio

from broadsheet.v1 import registry_service_pb2, status_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.sync.client import SyncCall
from tests.stream.sync_world import ControlPlane


async def read_to_the_end(call: SyncCall) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


def sent(plane: ControlPlane, mode: str) -> float:
    """Bytes of snapshots that the control plane has written in this mode."""
    name = "broadsheet_controlplane_sent_bytes_total"
    return plane.metrics.registry.get_sample_value(name, {"mode": mode}) or 0.0


async def is_sent(plane: ControlPlane, at_least: float) -> bool:
    return sent(plane, "FULL") >= at_least


async def holds(condition: bool) -> bool:
    return condition


async def shows(plane: ControlPlane, phase: pb.Phase.ValueType) -> bool:
    return (await plane.data_plane()).phase == phase


async def serves(plane: ControlPlane, revision: int) -> bool:
    shown = await plane.data_plane()
    return shown.connected and shown.serving.revision == revision


async def is_connected(plane: ControlPlane, connected: bool, data_plane_id: str = "dp") -> bool:
    try:
        return (await plane.data_plane(data_plane_id)).connected is connected
    except grpc.aio.AioRpcError:
        return False


async def is_kept(plane: ControlPlane) -> bool:
    record = await plane.store.get_data_plane("dp")
    return record is not None and record.phase == pb.PHASE_ACTIVE


async def state_is(plane: ControlPlane, state: status_pb2.ResourceState.ValueType) -> bool:
    model = (await plane.registry.GetModel(registry_service_pb2.GetModelRequest(name="models/smol"))).model
    return [status.status.state for status in model.statuses] == [state]


async def reports_nothing(plane: ControlPlane) -> bool:
    return not (await plane.data_plane()).resources
