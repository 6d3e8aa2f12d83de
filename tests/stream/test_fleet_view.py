"""What the fleet shows of each data plane: how far it is behind, and what it served before."""

from __future__ import annotations

import time
from pathlib import Path

from broadsheet.v1 import fleet_service_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from tests.postgres_server import PostgresServer
from tests.stream.sync_conditions import is_connected
from tests.stream.sync_world import ControlPlane, DataPlane, control_plane, eventually
from tests.stream.test_replicas import NOTIFIED

Shown = list[tuple[int, int, int]]


async def history(plane: ControlPlane, data_plane_id: str = "dp") -> Shown:
    """Serving revision, phase and rejected revision of each change, newest first."""
    shown = await plane.data_plane(data_plane_id)
    return [(change.serving.revision, change.phase, change.rejected.revision) for change in shown.history]


async def listed(plane: ControlPlane) -> fleet_service_pb2.DataPlane:
    (found,) = (await plane.fleet.ListDataPlanes(fleet_service_pb2.ListDataPlanesRequest())).data_planes
    return found


async def test_a_data_plane_that_rejects_falls_behind_and_its_history_says_since_when(tmp_path: Path) -> None:
    data_plane = DataPlane()
    data_plane.doomed = {2, 3}
    async with control_plane(tmp_path) as plane, data_plane.running(plane.address):
        await plane.register("m")
        await data_plane.active(1)

        async def has_history(*expected: tuple[int, int, int]) -> bool:
            return (await history(plane))[: len(expected)] == list(expected)

        await eventually(lambda: has_history((1, pb.PHASE_ACTIVE, 0)))
        shown = await plane.data_plane()
        assert (shown.lag.revisions, shown.lag.duration.ToTimedelta().total_seconds()) == (0, 0)
        before = time.time()
        await plane.register("n")
        await plane.register("o")
        await eventually(lambda: has_history((1, pb.PHASE_REJECTED, 3)))
        shown = await plane.data_plane()
        assert shown.history[0].reason == "DOOMED"
        assert before <= shown.history[0].time.ToNanoseconds() / 1e9 <= time.time()
        assert shown.lag.revisions == 2
        first = shown.lag.duration.ToTimedelta()
        in_list = await listed(plane)
        assert in_list.lag.revisions == 2
        assert in_list.lag.duration.ToTimedelta() > first
        assert not in_list.history
        await plane.register("p")
        await data_plane.active(4)
        await eventually(lambda: has_history((4, pb.PHASE_ACTIVE, 0)))
        assert (await plane.data_plane()).lag.revisions == 0


async def test_history_survives_the_control_plane_and_a_reconnection_is_no_change(tmp_path: Path) -> None:
    data_plane = DataPlane()
    async with control_plane(tmp_path) as plane, data_plane.running(plane.address):
        await plane.register("m")
        await data_plane.active(1)

        async def is_active() -> bool:
            return (await history(plane))[:1] == [(1, pb.PHASE_ACTIVE, 0)]

        await eventually(is_active)
        seen = await history(plane)
        address = plane.address
    async with control_plane(tmp_path, listen=address) as restarted:
        assert await history(restarted) == seen
        async with data_plane.running(restarted.address):
            await eventually(lambda: is_connected(restarted, True))
            await restarted.register("n")
            await data_plane.active(2)

            async def has_grown() -> bool:
                return await history(restarted) == [(2, pb.PHASE_ACTIVE, 0), *seen]

            await eventually(has_grown)


async def test_another_control_plane_shows_the_same(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = postgres_server.new_database()
    data_plane = DataPlane()
    async with (
        control_plane(tmp_path, url=url, sharing=NOTIFIED) as first,
        control_plane(tmp_path, url=url, sharing=NOTIFIED) as second,
    ):
        data_plane.doomed = {2}
        async with data_plane.running(first.address):
            await first.register("m")
            await data_plane.active(1)
            await first.register("n")

            async def shows_the_rejection() -> bool:
                return (await history(second))[:2] == [(1, pb.PHASE_REJECTED, 2), (1, pb.PHASE_ACTIVE, 0)]

            await eventually(lambda: is_connected(second, True))
            await eventually(shows_the_rejection)
            shown = await second.data_plane()
            assert shown.lag.revisions == 1
            assert shown.lag.duration.ToTimedelta().total_seconds() > 0
        # Its next stream is at the other control plane, which goes on counting.
        async with data_plane.running(second.address):
            await second.register("o")
            await data_plane.active(3)

            async def goes_on() -> bool:
                return (await history(first))[:2] == [(3, pb.PHASE_ACTIVE, 0), (1, pb.PHASE_REJECTED, 2)]

            await eventually(goes_on)
