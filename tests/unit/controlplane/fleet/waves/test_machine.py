"""When a wave begins, and when it is well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broadsheet.v1 import waves_pb2
from controlplane.fleet.data_plane import Traffic
from controlplane.fleet.waves import machine
from controlplane.fleet.waves.machine import WAVE_TIMEOUT
from controlplane.fleet.waves.states import TRANSITIONS, Event, State
from tests.unit.controlplane.fleet.waves.waves_world import NOW, World, failing, rolling, wave
from tests.unit.controlplane.fleet_world import at, head


def test_a_rollout_goes_from_wave_to_wave_until_everyone_has_the_snapshot() -> None:
    world = rolling(wave(soak_s=60))
    world.serve("c1")
    assert world.move() == []
    world.serve("c2")
    assert world.move() == [Event.WELL]
    assert world.move(after_s=59) == []
    assert world.move(after_s=1) == [Event.NEXT, Event.GIVE]
    assert world.given == {"c1", "c2", "o1", "o2"}
    world.serve("o1", "o2")
    assert world.move() == [Event.WELL, Event.COMPLETE]
    assert (world.state, world.rollout.stable, world.rollout.target) == (State.IDLE, head(2), None)
    assert world.move() == []


def test_later_snapshots_wait_and_are_the_next_rollout_together() -> None:
    world = rolling()
    for revision in (3, 4, 5):
        world.commit(revision)
        assert world.move() == []
    assert world.allowed("c1") == head(2)
    world.serve("c1", "c2")
    world.move()
    world.serve("o1", "o2")
    assert world.move()[-3:] == [Event.COMPLETE, Event.BEGIN, Event.GIVE]
    assert (world.rollout.stable, world.rollout.target) == (head(2), head(5))


@pytest.mark.parametrize(
    "silence",
    [
        {"connected": False},
        {"has_reported": False},
        {"connected": False, "serving": at(2), "settled_revision": 2},
        {"serving": None, "settled_revision": None},
        {"serving": at(2, "another store")},
    ],
)
def test_a_silent_data_plane_never_counts_as_well(silence: Mapping[str, Any]) -> None:
    world = World()
    world.say("c2", **silence)
    world.commit(2)
    world.move()
    world.serve("c1")
    world.say("c2", **silence)
    assert not {Event.WELL, Event.NEXT} & set(world.move(after_s=60) + world.move(after_s=600))
    assert world.given & {"o1", "o2"} == set()
    assert machine.waiting_for(world.rollout, list(world.seen.values())) == ["c2"]
    world.move(after_s=1800)
    assert world.state is State.HALTED


def test_a_wave_that_takes_too_long_halts_and_names_whom_it_waited_for() -> None:
    world = World(wave(timeout_s=100))
    world.say("c1", connected=False)
    world.commit(2)
    world.move()
    world.serve("c2")
    assert world.move(after_s=99) == []
    assert world.move(after_s=1) == [Event.HALT]
    assert world.rollout.reason == WAVE_TIMEOUT
    assert world.rollout.message == "wave 1 has waited for more than 100 s for c1 (not connected)"
    # Going on begins the time anew.
    world.operate(machine.resumed(world.rollout, NOW))
    assert world.move(after_s=99) == []
    world.say("c1", connected=True)
    assert world.move() == [Event.GIVE]
    world.serve("c1")
    assert Event.NEXT in world.move()


def test_enough_healthy_data_planes_let_a_wave_go_on_without_the_others() -> None:
    world = World(wave(min_healthy=50), wave(min_healthy=100, base=waves_pb2.Wave()))
    world.say("c1", connected=False)
    world.commit(2)
    world.move()
    world.serve("c2")
    assert Event.NEXT in world.move()


def test_a_data_plane_that_comes_late_belongs_to_its_wave() -> None:
    world = World(wave(soak_s=60))
    late = world.seen.pop("c2")
    world.commit(2)
    world.move()
    world.serve("c1")
    assert world.move() == [Event.WELL]
    world.seen["c2"] = late
    assert world.move(after_s=30) == [Event.GIVE, Event.UNWELL]
    world.serve("c2")
    # The soak begins anew.
    assert world.move() == [Event.WELL]
    assert world.move(after_s=59) == []
    assert world.move(after_s=1) == [Event.NEXT, Event.GIVE]


def test_who_does_not_vote_gets_the_snapshot_in_its_wave_and_decides_nothing() -> None:
    world = World()
    world.say("c2", votes=False)
    world.commit(2)
    world.move()
    assert world.given == {"c1", "c2"}
    world.say("c2", unwell=failing("models/made-up"), settled_revision=2)
    world.serve("c1")
    assert Event.NEXT in world.move()
    # Without anybody who votes, a wave of labels is never well.
    alone = World()
    for name in ("c1", "c2"):
        alone.say(name, votes=False)
    alone.commit(2)
    alone.move()
    alone.serve("c1", "c2")
    assert alone.move() == []


def test_a_wave_whose_labels_nobody_has_is_never_well() -> None:
    world = World(wave(timeout_s=100))
    for name in ("c1", "c2"):
        world.say(name, labels={})
    world.commit(2)
    assert world.move() == [Event.BEGIN]
    assert world.move(after_s=100) == [Event.HALT]
    assert "a data plane that has its labels" in world.rollout.message
    assert world.given == set()


def test_a_rollout_keeps_the_policy_that_it_began_with() -> None:
    world = rolling()
    world.policy = waves_pb2.FleetPolicy()
    world.serve("c1", "c2")
    assert Event.NEXT in world.move()
    world.serve("o1", "o2")
    assert Event.COMPLETE in world.move()
    world.commit(3)
    assert world.move() == []


def test_a_restart_neither_forgets_a_harm_nor_shortens_a_soak() -> None:
    world = World(wave(soak_s=60))
    world.say("c1", unwell=failing("models/old"), traffic=Traffic(100, 2))
    world.commit(2)
    world.move()
    world.serve("c1", "c2")
    world.move()
    assert world.move(after_s=50) == []
    world.restart()
    assert world.move() == []
    assert world.move(after_s=59) == []
    world.say("c1", unwell=failing("models/old", "models/new"))
    assert world.move(after_s=1) == [Event.HALT]
    before = world.rollout
    world.restart()
    assert world.rollout == before
    assert world.move(after_s=10**6) == []


def test_every_transition_leads_to_a_state_and_no_other_event_is_legal() -> None:
    world = World()
    for state in State:
        for event in Event:
            if (state, event) not in TRANSITIONS:
                with pytest.raises(KeyError):
                    world.rollout.__class__(stable=head(1), state=state, update_time=NOW).moved(event, NOW)
    assert {state for state, _ in TRANSITIONS} == set(TRANSITIONS.values()) == set(State)


_Action = tuple[str, str]
_KINDS = ["serve", "serve", "go", "come", "fail", "heal", "reject", "commit", "wait", "restart", "resume"]
_ACTIONS = st.lists(st.tuples(st.sampled_from(_KINDS), st.sampled_from(["c1", "c2", "o1", "o2"])), max_size=40)


@settings(max_examples=300, deadline=None)
@given(_ACTIONS)
def test_nobody_of_a_wave_gets_a_snapshot_before_the_one_before_is_well(actions: list[_Action]) -> None:
    """Whatever happens, in whatever order."""
    world = World()
    world.commit(2)
    for action, name in actions:
        match action:
            case "serve" if world.seen[name].connected and world.seen[name].rejected != world.allowed(name).position:
                world.serve(name)
            case "go":
                world.say(name, connected=False)
            case "come":
                world.say(name, connected=True)
            case "fail":
                world.say(name, unwell=failing(f"models/{len(world.events)}"))
            case "heal":
                world.say(name, unwell={})
            case "reject" if name in world.given and world.seen[name].serving != world.allowed(name).position:
                position = world.allowed(name).position
                world.say(name, rejected=position, settled_revision=position.revision)
            case "commit":
                world.commit(world.newest.position.revision + 1)
            case "wait":
                world.now_s += 30
            case "restart":
                world.restart()
            case "resume" if world.state is State.HALTED:
                world.operate(machine.resumed(world.rollout, NOW))
        before = world.rollout
        moves = world.move()
        if Event.NEXT in moves and before.target is not None:
            for canary in ("c1", "c2"):
                seen = world.seen[canary]
                is_well = seen.connected and seen.serving == before.target.position
                assert is_well or canary in world.rollout.excused, (canary, moves)
        # Nobody is sent an older snapshot than it may have had.
        assert all(world.allowed(each).position.revision >= before.stable.position.revision for each in world.seen)


def test_nobody_is_given_the_snapshot_before_it_is_known_how_they_are() -> None:
    world = World()
    world.say("c2", has_reported=False)
    world.commit(2)
    world.move()
    assert world.given == {"c1"}
    world.say("c2", has_reported=True, unwell=failing("models/old"))
    assert world.move() == [Event.GIVE]
    world.serve("c1", "c2")
    assert Event.NEXT in world.move()
