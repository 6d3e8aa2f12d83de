from __future__ import annotations

from datetime import UTC, datetime

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.errors import Reason, ResourceExhausted
from controlplane.fleet.data_plane import Session
from controlplane.fleet.progress import Progress
from controlplane.fleet.state import FleetLimits, FleetState
from controlplane.fleet.waiting.outcomes import Outcome
from tests.unit.controlplane.fleet.test_merging import Peer
from tests.unit.controlplane.fleet_world import World, head

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def connected(peer: Peer, session: int = 1) -> FleetState:
    state = FleetState(head=head(5), shares_statuses=True)
    state.attach(pb.Hello(data_plane="dp"), Progress(), peer, Session(session), now=NOW)
    return state


def test_a_removed_data_plane_leaves_nothing_behind() -> None:
    peer = Peer()
    state = connected(peer)
    state.forget("dp")
    assert peer.dismissed
    assert (state.view("dp"), state.ids, state.has_unwritten) == (None, [], False)
    # Its stream goes on for a moment.
    state.detach("dp", peer)
    state.forget("dp")
    assert state.ids == []


def test_a_session_that_began_after_a_removal_stays() -> None:
    peer = Peer()
    state = connected(peer, session=2)
    state.forget("dp", session=Session(1))
    assert not peer.dismissed
    assert state.sessions() == {"dp": 2}
    state.forget("dp", session=Session(2))
    assert peer.dismissed


def test_a_report_on_its_way_may_outlast_its_data_plane() -> None:
    for written in (True, False):
        state = connected(Peer())
        reports = state.take_reports(10)
        state.forget("dp")
        if written:
            state.written(reports)
        else:
            state.not_written(reports)
        assert not state.has_unwritten


async def test_a_removed_data_plane_makes_room_for_another() -> None:
    world = World(limits=FleetLimits(data_planes_max=1))
    await world.connect("first")
    with pytest.raises(ResourceExhausted, match="broadsheet fleet remove") as caught:
        await world.connect("second")
    assert caught.value.reason is Reason.TOO_MANY_DATA_PLANES
    world.fleet.state.forget("first")
    await world.connect("second")


async def test_callers_do_not_wait_for_a_removed_data_plane() -> None:
    world = World()
    await world.connect("dp")
    world.fleet.state.forget("dp")
    (outcome,) = await world.fleet.waiters.wait_for_revision(5, ["dp"], 60)
    assert outcome.outcome is Outcome.MISSING
