from __future__ import annotations

import asyncio

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import position_to_proto
from controlplane.catalog.domain import Position
from controlplane.errors import InvalidArgument, ResourceExhausted
from controlplane.fleet import waiters as fleet_waiters
from controlplane.fleet.outcomes import Outcome
from controlplane.push.fan_out import ShutdownSettings
from tests.unit.controlplane.fleet_world import World, at, settle


async def outcome_of(world: World, revision: int) -> Outcome:
    (outcome,) = await world.fleet.waiters.wait_for_revision(revision, ["dp"], 0)
    return outcome.outcome


@pytest.mark.parametrize(
    ("have", "rejected", "outcome"),
    [
        (at(9), (), Outcome.ACTIVE),
        (at(8), (), Outcome.ACTIVE),
        (at(7), (), Outcome.PENDING),
        (None, (), Outcome.PENDING),
        (at(7), (at(9),), Outcome.REJECTED),
        # It has rejected an older revision; it may accept the one that is under way.
        (at(7), (at(8),), Outcome.PENDING),
        (at(9, "other"), (), Outcome.PENDING),
        (at(9, "other"), (at(9),), Outcome.REJECTED),
        # The store has lost revisions that this data plane has: it serves none of the present ones.
        (at(20), (), Outcome.PENDING),
        (at(20), (at(9),), Outcome.REJECTED),
    ],
)
async def test_outcomes(have: Position | None, rejected: tuple[Position, ...], outcome: Outcome) -> None:
    world = World(revision=9)
    stream = await world.connect(have=have, rejected=rejected)
    assert await outcome_of(world, 8) is outcome
    world.fan_out.detach(stream)
    assert await outcome_of(world, 8) is Outcome.MISSING


async def test_waiting_ends_when_no_data_plane_is_pending() -> None:
    world = World(revision=0)
    stream = await world.connect()
    waiting = asyncio.create_task(world.fleet.waiters.wait_for_revision(0, ["dp"], 60))
    await settle()
    for _ in range(2):
        stream.subscription.take_output(0)
    zero = position_to_proto(at(0))
    world.say(stream, pb.Status(target=zero, phase=pb.PHASE_RECEIVED))
    await settle()
    assert not waiting.done()
    active = pb.PHASE_ACTIVE_WITH_ERRORS
    world.say(stream, pb.Status(target=zero, serving=zero, phase=active, message="not on disk"))
    (outcome,) = await waiting
    assert outcome.outcome is Outcome.ACTIVE_WITH_ERRORS
    assert outcome.message == "not on disk"


async def test_a_stopping_control_plane_answers_waiting_callers() -> None:
    world = World(shutdown=ShutdownSettings(grace_s=0))
    await world.connect()
    waiting = asyncio.create_task(world.fleet.waiters.wait_for_revision(5, ["dp"], 60))
    await settle()
    await world.fan_out.shutdown()
    (outcome,) = await waiting
    assert outcome.outcome is Outcome.PENDING


async def test_waiting_callers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_waiters, "WAITERS_MAX", 1)
    world = World()
    await world.connect()
    waiting = asyncio.create_task(world.fleet.waiters.wait_for_revision(5, ["dp"], 60))
    await settle()
    with pytest.raises(ResourceExhausted):
        await world.fleet.waiters.wait_for_revision(5, ["dp"], 60)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await world.fleet.waiters.wait_for_revision(5, ["nobody"], 60)


async def test_a_revision_that_does_not_exist_yet_is_not_waited_for() -> None:
    with pytest.raises(InvalidArgument):
        await World(revision=5).fleet.waiters.wait_for_revision(6, [], 60)
