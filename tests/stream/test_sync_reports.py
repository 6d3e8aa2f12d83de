"""What a control plane keeps of the statuses that data planes report."""

from __future__ import annotations

from pathlib import Path

from structlog.testing import capture_logs

from broadsheet.v1 import registry_service_pb2, status_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from tests.stream.sync_world import ControlPlane, DataPlane, control_plane, eventually, hello

READY = status_pb2.RESOURCE_STATE_READY
DRAINING = status_pb2.RESOURCE_STATE_DRAINING


async def reported(plane: ControlPlane) -> list[str]:
    return [status.name for status in (await plane.data_plane()).resources]


async def test_statuses_of_made_up_names_are_dropped_and_logged_once(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        await plane.register("m")
        stream = plane.snapshots.Sync()
        with capture_logs() as logs:
            await stream.write(hello())
            for first in range(0, 5000, 1000):
                made_up = [f"models/m/revisions/{number}" for number in range(first + 2, first + 1002)]
                resources = [status_pb2.ResourceStatus(name=name, state=READY) for name in made_up]
                await stream.write(pb.SyncRequest(status=pb.Status(resources=resources)))
            resources = [status_pb2.ResourceStatus(name="models/m", state=READY)]
            await stream.write(pb.SyncRequest(status=pb.Status(resources=resources)))

            async def last_status_has_come() -> bool:
                return "models/m" in await reported(plane)

            await eventually(last_status_has_come)
            assert await reported(plane) == ["models/m"]
            stream.cancel()

            async def stream_has_ended() -> bool:
                return any(entry["event"] == "sync_stream_ended" for entry in logs)

            await eventually(stream_has_ended)
    warnings = [entry for entry in logs if entry["event"] == "statuses_of_unknown_names_dropped"]
    assert [entry["data_plane"] for entry in warnings] == ["dp"]
    (ended,) = [entry for entry in logs if entry["event"] == "sync_stream_ended"]
    assert ended["statuses_dropped"] == 5000


async def test_a_deleted_model_is_reported_as_long_as_it_is_served(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        data_plane = DataPlane()
        await plane.register("old")
        async with data_plane.running(plane.address):
            await data_plane.active(1)
            data_plane.doomed = {2}
            await plane.registry.DeleteModel(registry_service_pb2.DeleteModelRequest(name="models/old"))
            await data_plane.until(lambda: bool(data_plane.rejected))
            data_plane.report({"models/old": DRAINING, "models/never": READY})

            async def is_reported() -> bool:
                return bool(await reported(plane))

            await eventually(is_reported)
            assert await reported(plane) == ["models/old"]
