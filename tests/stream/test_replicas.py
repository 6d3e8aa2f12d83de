"""Several control planes on a PostgreSQL database: each answers for the whole fleet."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url

from broadsheet.v1 import registry_service_pb2, status_pb2
from broadsheet.v1.fleet_service_pb2 import DataPlaneOutcome as Outcome
from broadsheet.v1.fleet_service_pb2 import ListDataPlanesRequest
from controlplane.fleet.shared_database import SharingSettings
from tests.postgres_server import PostgresServer
from tests.stream.sync_world import ControlPlane, DataPlane, control_plane, eventually

NOTIFIED = SharingSettings(poll_s=60, pause_s=0, heartbeat_s=0.2, lease_s=1.0, retry_s=0.05)
"""Changes that arrive within a minute were notified."""

POLLED = dataclasses.replace(NOTIFIED, poll_s=0.2, retry_s=60)
"""A lost connection for notifications is not reestablished in time."""


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """An empty database."""
    return postgres_server.new_database()


@pytest.fixture
async def planes(url: str, tmp_path: Path) -> AsyncIterator[tuple[ControlPlane, ControlPlane, ControlPlane]]:
    """Three control planes on it."""
    async with (
        control_plane(tmp_path, url=url, sharing=NOTIFIED) as first,
        control_plane(tmp_path, url=url, sharing=NOTIFIED) as second,
        control_plane(tmp_path, url=url, sharing=NOTIFIED) as third,
    ):
        yield first, second, third


async def _stop_listening(url: str) -> None:
    parsed = make_url(url)
    admin = await asyncpg.connect(host=str(parsed.query["host"]), user="postgres", database="postgres")
    listeners = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND query LIKE 'LISTEN%'"
    assert len(await admin.fetch(listeners, parsed.database)) > 0
    await admin.close()


async def test_a_commit_reaches_the_data_planes_of_all_control_planes(
    planes: tuple[ControlPlane, ControlPlane, ControlPlane],
) -> None:
    data_plane = DataPlane()
    async with data_plane.running(planes[1].address):
        await data_plane.active(0)
        for number, plane in enumerate(planes, start=1):
            await plane.register(f"m{number}")
            assert (await data_plane.active(number)).position.revision == number


async def test_a_lost_notification_is_covered_by_polling(url: str, tmp_path: Path) -> None:
    async with (
        control_plane(tmp_path, url=url, sharing=POLLED) as first,
        control_plane(tmp_path, url=url, sharing=POLLED) as second,
    ):
        data_plane = DataPlane()
        async with data_plane.running(second.address):
            await data_plane.active(0)
            await _stop_listening(url)
            await data_plane.active(await first.register("m"))


async def test_notifications_are_received_again_after_the_connection_was_lost(url: str, tmp_path: Path) -> None:
    async with (
        control_plane(tmp_path, url=url, sharing=NOTIFIED) as first,
        control_plane(tmp_path, url=url, sharing=NOTIFIED) as second,
    ):
        data_plane = DataPlane()
        async with data_plane.running(second.address):
            await data_plane.active(await first.register("m1"))
            await _stop_listening(url)
            await data_plane.active(await first.register("m2"))
            await data_plane.active(await first.register("m3"))


async def test_any_control_plane_answers_for_the_fleet(
    planes: tuple[ControlPlane, ControlPlane, ControlPlane],
) -> None:
    first, second, third = planes
    data_plane = DataPlane()
    async with data_plane.running(second.address):

        async def known() -> bool:
            listed = (await third.fleet.ListDataPlanes(ListDataPlanesRequest())).data_planes
            return [data_plane.connected for data_plane in listed] == [True]

        await eventually(known)
        revision = await first.register("good")
        answer = await third.wait_for(revision, "dp")
        assert (answer.active_everywhere, answer.outcomes[0].outcome) == (True, Outcome.OUTCOME_ACTIVE)
        assert (await third.wait_for(revision)).active_everywhere
        data_plane.report({"models/good": status_pb2.RESOURCE_STATE_DEPLOYING})

        async def shown() -> bool:
            request = registry_service_pb2.GetModelRequest(name="models/good")
            statuses = (await first.registry.GetModel(request)).model.statuses
            return [status.status.state for status in statuses] == [status_pb2.RESOURCE_STATE_DEPLOYING]

        await eventually(shown)
        for plane in planes:
            listed = (await plane.fleet.ListDataPlanes(ListDataPlanesRequest())).data_planes
            assert [(shown.name, shown.connected, shown.serving.revision) for shown in listed] == [
                ("dataPlanes/dp", True, 1)
            ]
            (resource,) = (await plane.data_plane()).resources
            assert (resource.name, resource.state) == ("models/good", status_pb2.RESOURCE_STATE_DEPLOYING)
        data_plane.report({})

        async def gone() -> bool:
            return not (await third.data_plane()).resources

        await eventually(gone)

    async def disconnected() -> bool:
        return not any([(await plane.data_plane()).connected for plane in planes])

    await eventually(disconnected)
    (outcome,) = (await third.wait_for(revision, "dp")).outcomes
    assert outcome.outcome == Outcome.OUTCOME_MISSING


async def test_any_control_plane_shows_rejections(
    planes: tuple[ControlPlane, ControlPlane, ControlPlane],
) -> None:
    first, second, third = planes
    data_plane = DataPlane()
    async with data_plane.running(second.address):
        await data_plane.active(await first.register("good"))
        data_plane.doomed = {2}
        bad = await first.register("bad")
        (outcome,) = (await third.wait_for(bad, "dp")).outcomes
        assert (outcome.outcome, outcome.reason, outcome.serving.revision) == (Outcome.OUTCOME_REJECTED, "DOOMED", 1)
    # Another control plane does not offer it again.
    offered = len(data_plane.offered)
    async with data_plane.running(third.address, instance_uid="instance-2"):

        async def moved() -> bool:
            shown = await first.data_plane()
            return shown.connected and shown.instance_uid == "instance-2"

        await eventually(moved)
        (outcome,) = (await first.wait_for(bad, "dp")).outcomes
        assert outcome.outcome == Outcome.OUTCOME_REJECTED
        assert len(data_plane.offered) == offered


async def test_a_data_plane_that_moves_is_served_by_a_single_control_plane(
    planes: tuple[ControlPlane, ControlPlane, ControlPlane],
) -> None:
    first, second, third = planes
    await first.register("m")
    before, after = DataPlane(), DataPlane()
    async with before.running(second.address):
        await before.active(1)
        before.report({"models/m": status_pb2.RESOURCE_STATE_READY})
        async with after.running(third.address, instance_uid="instance-2"):
            await after.active(1)

            async def shown() -> bool:
                return (await first.data_plane()).instance_uid == "instance-2"

            await eventually(shown)
            await before.until(lambda: not before.connections[-1].connected)
            after.report({"models/m": status_pb2.RESOURCE_STATE_IDLE})

            async def reported() -> bool:
                resources = (await first.data_plane()).resources
                return [resource.state for resource in resources] == [status_pb2.RESOURCE_STATE_IDLE]

            await eventually(reported)
            for plane in planes:
                assert (await plane.data_plane()).connected


async def test_the_data_planes_of_a_dead_control_plane_are_disconnected(url: str, tmp_path: Path) -> None:
    data_plane = DataPlane()
    async with control_plane(tmp_path, url=url, sharing=NOTIFIED) as survivor:
        dying = control_plane(tmp_path, url=url, sharing=NOTIFIED, orderly=False)
        plane = await dying.__aenter__()
        async with data_plane.running(plane.address):
            await data_plane.active(await survivor.register("m"))
            assert (await survivor.wait_for(1, "dp")).active_everywhere
            await dying.__aexit__(None, None, None)

            async def disconnected() -> bool:
                return not (await survivor.data_plane()).connected

            await eventually(disconnected)
            assert (await survivor.data_plane()).serving.revision == 1


async def test_a_revision_of_another_control_plane_can_be_waited_for_at_once(
    planes: tuple[ControlPlane, ControlPlane, ControlPlane],
) -> None:
    first, second, _ = planes
    for number in range(20):
        revision = await first.register(f"m{number}")
        # Without data planes the call does not wait, but the revision has to be known.
        answers = await asyncio.gather(*(second.wait_for(revision, timeout_s=0.1) for _ in range(3)))
        assert [answer.active_everywhere for answer in answers] == [False] * 3
