from __future__ import annotations

import asyncio

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import position_to_proto
from controlplane.catalog.domain import Position
from controlplane.errors import InvalidArgument, ResourceExhausted
from controlplane.fleet.data_plane import DataPlane
from controlplane.fleet.progress import ResourceChange
from controlplane.fleet.waiting import waiters as fleet_waiters
from controlplane.fleet.waiting.outcomes import Outcome, pending_from
from controlplane.fleet.waiting.outcomes import outcome_of as outcome_for
from controlplane.push.fan_out import ShutdownSettings
from controlplane.push.stream import Stream
from tests.unit.controlplane.fleet_world import World, at, head, record, settle


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


async def test_waiting_calls_cost_in_proportion_to_what_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(revision=5)
    streams = {f"dp-{number}": await world.connect(f"dp-{number}") for number in range(200)}
    looked: list[str] = []

    def counted(data_plane_id: str) -> DataPlane | None:
        looked.append(data_plane_id)
        return get(data_plane_id)

    get = world.fleet.state.get
    monkeypatch.setattr(world.fleet.state, "get", counted)
    calls = [asyncio.create_task(world.fleet.waiters.wait_for_revision(5, streams, 60)) for _ in range(200)]
    await settle()
    # The calls wait for the same, so the fleet is looked at once for all.
    assert len(looked) == 200
    looked.clear()
    for stream in streams.values():
        send_all(stream)
    for data_plane_id, stream in list(streams.items())[:-1]:
        world.fan_out.received(stream, acknowledged(stream, 5))
        await settle()
        assert looked == [data_plane_id]
        looked.clear()
    assert not any(call.done() for call in calls)
    world.fan_out.received(stream := streams["dp-199"], acknowledged(stream, 5))
    answers = await asyncio.gather(*calls)
    # One look at what has changed, and one answer that all calls get.
    assert len(looked) == 1 + 200
    assert all(answer is answers[0] for answer in answers)
    assert {outcome.outcome for outcome in answers[0]} == {Outcome.ACTIVE}


async def test_a_rejection_that_is_known_before_the_snapshot_is_published_ends_the_waiting() -> None:
    world = World(revision=5)
    await world.connect(have=at(4), rejected=(at(6),))
    waiting = asyncio.create_task(world.fleet.waiters.wait_for_revision(5, ["dp"], 60))
    await settle()
    assert not waiting.done()
    world.fan_out.publish(head(6))
    (outcome,) = await asyncio.wait_for(waiting, 5)
    assert outcome.outcome is Outcome.REJECTED


async def test_a_call_that_comes_after_others_were_answered_waits_anew() -> None:
    world = World(revision=5)
    await world.connect(have=at(4), rejected=(at(5),))
    first = asyncio.create_task(world.fleet.waiters.wait_for_revision(5, ["dp"], 60))
    await settle()
    assert first.done()
    world.fan_out.publish(head(6))
    second = asyncio.create_task(world.fleet.waiters.wait_for_revision(5, ["dp"], 60))
    await settle()
    assert not second.done()
    second.cancel()
    await asyncio.wait([second])
    assert not world.fleet.waiters._watches.size


async def test_what_is_waited_for_is_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_waiters, "WATCHED_MAX", 3)
    world = World()
    for data_plane_id in ("a", "b"):
        await world.connect(data_plane_id)
    waiting = [asyncio.create_task(world.fleet.waiters.wait_for_revision(5, ["a", "b"], 60)) for _ in range(2)]
    await settle()
    with pytest.raises(ResourceExhausted, match="4 data planes in all, and at most for 3"):
        await world.fleet.waiters.wait_for_revision(4, ["a", "b"], 60)
    for call in waiting:
        call.cancel()
    await asyncio.wait(waiting)
    assert await world.fleet.waiters.wait_for_revision(4, ["a", "b"], 0)


@pytest.mark.parametrize("revision", range(12))
@pytest.mark.parametrize("have", [None, at(4), at(9), at(20), at(4, "other")])
@pytest.mark.parametrize("rejected", [(), (at(9),)])
@pytest.mark.parametrize("allowed", [at(9), at(7)])
async def test_pending_from_and_outcomes_agree(
    revision: int, have: Position | None, rejected: tuple[Position, ...], allowed: Position
) -> None:
    if have in rejected:
        return
    world = World(revision=9)
    await world.connect(have=have, rejected=rejected)
    known = world.fleet.state.get("dp")
    assert known is not None
    outcome = outcome_for("dp", known, revision, at(9), allowed).outcome
    assert (outcome is Outcome.PENDING) == (pending_from(known, at(9), allowed) <= revision)


async def test_a_data_plane_that_only_the_database_has_is_missing_with_what_it_served() -> None:
    world = World(revision=5)
    (outcome,) = await world.fleet.waiters.wait_for_revision(5, ["dp"], 60, {"dp": record("dp", serving=at(4))})
    assert (outcome.outcome, outcome.serving) == (Outcome.MISSING, at(4))


def send_all(stream: Stream) -> None:
    """Write all that is due on a stream: Intent, and the Commit of the empty snapshot."""
    while stream.subscription.take_output(0) is not None:
        pass


def acknowledged(stream: Stream, revision: int) -> ResourceChange:
    position = position_to_proto(at(revision))
    status = pb.Status(target=position, serving=position, phase=pb.PHASE_ACTIVE)
    return stream.subscription.receive(pb.SyncRequest(status=status), 0)
