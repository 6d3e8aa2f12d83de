"""What the control plane's metrics show of Sync streams."""

from __future__ import annotations

from pathlib import Path

from broadsheet.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from dataplane.sync.channel import insecure_channel
from tests.stream.sync_world import ControlPlane, DataPlane, control_plane, eventually, hello
from tests.stream.test_sync_revocations import create, revoke


def value(plane: ControlPlane, name: str, **labels: str) -> float:
    return plane.metrics.registry.get_sample_value(f"broadsheet_controlplane_{name}", labels) or 0.0


async def is_value(plane: ControlPlane, name: str, expected: float) -> bool:
    return value(plane, name) == expected


async def test_each_data_plane_that_serves_a_commit_is_measured_once(tmp_path: Path) -> None:
    first, second = DataPlane(), DataPlane()
    async with (
        control_plane(tmp_path) as plane,
        first.running(plane.address, "first"),
        second.running(plane.address, "second"),
    ):
        await first.active(0)
        await second.active(0)
        assert value(plane, "convergence_seconds_count") == 0, "revision 0 was not committed by now"
        revision = await plane.register("m")
        await first.active(revision)
        await second.active(revision)
        await eventually(lambda: is_value(plane, "convergence_seconds_count", 2))
        assert 0 < value(plane, "convergence_seconds_sum") < 20
        assert value(plane, "sent_bytes_total", mode="DELTA") > 0


async def test_a_rejected_snapshot_is_counted(tmp_path: Path) -> None:
    data_plane = DataPlane()
    async with control_plane(tmp_path) as plane, data_plane.running(plane.address):
        await data_plane.active(0)
        data_plane.doomed = {1}
        await plane.register("m")
        await eventually(lambda: is_value(plane, "snapshot_rejections_total", 1))
        await data_plane.active(await plane.register("n"))
        assert value(plane, "snapshot_rejections_total") == 1


async def test_a_revocation_is_measured_and_who_is_behind_is_counted(tmp_path: Path) -> None:
    data_plane = DataPlane()
    async with control_plane(tmp_path) as plane, data_plane.running(plane.address):
        await create(plane)
        await data_plane.active(1)
        assert value(plane, "revocations_behind") == 0
        await revoke(plane)
        await eventually(lambda: is_value(plane, "revocation_seconds_count", 1))
        await eventually(lambda: is_value(plane, "revocations_behind", 0))
        async with insecure_channel(plane.address) as channel:
            call = SnapshotServiceStub(channel).Sync()
            await call.write(hello("earlier-release"))
            await eventually(lambda: is_value(plane, "revocations_behind", 1))
            call.cancel()
