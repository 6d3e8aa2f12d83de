from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from controlplane.errors import ResourceExhausted
from controlplane.fleet.admission import Admission
from controlplane.fleet.data_plane import Session
from controlplane.fleet.state import FleetLimits
from controlplane.store.fleet.reports import FleetReport
from tests.unit.controlplane.fleet_world import Records, World, record, settle


class SlowDatabase:
    """A database whose claims return when, and in the order in which, a test lets them."""

    def __init__(self) -> None:
        self.claims: list[asyncio.Future[Session]] = []

    async def claim(self, data_plane_id: str) -> Session:
        self.claims.append(asyncio.get_running_loop().create_future())
        return await self.claims[-1]

    async def put(self, reports: Sequence[FleetReport]) -> None:
        raise AssertionError("the tests write nothing")

    async def catch_up(self) -> None:
        """Nothing is written by others."""

    async def run(self, oldest_in_use: Callable[[], int | None]) -> None:
        raise AssertionError("it is not run")

    async def leave(self) -> None:
        raise AssertionError("it is not left")


async def test_a_claim_that_returns_after_its_stream_has_ended_leaves_nobody_connected() -> None:
    world, database = World(), SlowDatabase()
    admission = Admission(world.fleet.state, Records(), database)
    before = await world.connect()
    admitting = asyncio.create_task(admission.admit("dp"))
    await settle()
    admitting.cancel()
    await asyncio.wait([admitting])
    database.claims[0].set_result(Session(9))
    await settle()
    view = world.fleet.state.view("dp")
    assert view is not None
    assert not view.connected
    assert before.subscription.ending(0)
    reports = world.fleet.state.take_reports(10)
    assert [(report.session, report.connected) for report in reports] == [(9, False)]


async def test_claims_that_return_out_of_order_leave_the_newer_session() -> None:
    world, database = World(), SlowDatabase()
    admission = Admission(world.fleet.state, Records(), database)
    first, second = (asyncio.create_task(admission.admit("dp")) for _ in range(2))
    await settle()
    database.claims[1].set_result(Session(2))
    newer = world.greeted("dp")
    world.fan_out.attach(newer, await second)
    database.claims[0].set_result(Session(1))
    older = world.greeted("dp")
    world.fan_out.attach(older, await first)
    assert (newer.subscription.ending(0), older.subscription.ending(0)) == (False, True)
    world.fan_out.detach(older)
    view = world.fleet.state.view("dp")
    assert view is not None
    assert view.connected


async def test_a_stored_data_plane_is_admitted_while_the_memory_is_full() -> None:
    world = World(limits=FleetLimits(data_planes_max=2))
    for data_plane_id in ("a", "b", "c"):
        await world.records.upsert_data_plane(record(data_plane_id))
    gone = await world.connect("a")
    world.fan_out.detach(gone)
    await world.fleet.writer.flush()
    await world.connect("b")
    await world.connect("c")
    assert list(world.fleet.state.ids) == ["b", "c"]
    # Both are connected, so there is room for no other.
    with pytest.raises(ResourceExhausted, match="2 data planes"):
        await world.connect("a")
