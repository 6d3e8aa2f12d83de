"""What an operator does with a rollout: resume, restart, roll back, force, halt."""

from __future__ import annotations

import pytest

from controlplane.fleet.waves import machine
from controlplane.fleet.waves.states import Event, State
from tests.unit.controlplane.fleet.waves.waves_world import NOW, World, rolling
from tests.unit.controlplane.fleet_world import at, head


def halted() -> World:
    world = rolling()
    world.serve("c2")
    world.say("c1", rejected=at(2), reason="DOOMED", settled_revision=2)
    assert world.move() == [Event.HALT]
    return world


def test_resume_goes_on_with_the_same_snapshot_without_those_who_were_hurt() -> None:
    world = halted()
    world.commit(3)
    world.operate(machine.resumed(world.rollout, NOW))
    assert world.rollout.excused == {"c1"}
    assert Event.NEXT in world.move()
    assert world.rollout.target == head(2)
    world.serve("o1", "o2")
    assert Event.COMPLETE in world.move()


def test_restart_takes_the_newest_and_begins_where_it_hurt() -> None:
    world = halted()
    world.commit(3)
    world.operate(machine.restarted(world.rollout, world.situation))
    assert (world.rollout.wave, world.rollout.first) == (0, ("c1",))
    assert world.move() == [Event.GIVE]
    assert world.given == {"c1"}
    world.say("c1", rejected=None)
    world.serve("c1")
    assert world.move() == [Event.WELL, Event.NEXT, Event.GIVE]
    assert world.given == {"c1", "c2"}
    # The other canary keeps what it serves until then, and then gets the newest.
    world.serve("c2")
    assert world.move() == [Event.WELL, Event.NEXT, Event.GIVE]


def test_a_roll_back_goes_first_to_all_who_have_the_bad_snapshot_and_are_there() -> None:
    world = halted()
    world.say("c2", connected=False)
    world.commit(3)
    assert world.move() == []
    world.rollback_revision = 3
    assert world.move() == [Event.RESTART, Event.GIVE]
    assert (world.rollout.target, world.rollout.first, world.given) == (head(3), ("c1",), {"c1"})
    world.say("c2", connected=True)
    world.say("c1", rejected=None)
    world.serve("c1")
    world.move()
    world.serve("c2")
    world.move()
    world.serve("o1", "o2")
    assert world.move()[-1] is Event.COMPLETE
    # It is no rollback of anything later.
    world.commit(4)
    assert world.move() == [Event.BEGIN, Event.GIVE]


@pytest.mark.parametrize("is_halted", [True, False])
def test_force_makes_the_newest_stable(is_halted: bool) -> None:
    world = halted() if is_halted else rolling()
    world.commit(7)
    world.operate(machine.forced(world.rollout, world.newest, NOW))
    assert world.rollout.stable == head(7)
    assert (world.state, world.rollout.given, world.rollout.hurt) == (State.IDLE, {}, ())
    assert world.move() == []


def test_an_operator_halts_only_what_is_under_way() -> None:
    world = World()
    with pytest.raises(KeyError):
        machine.halted_by_operator(world.rollout, "", NOW)
    with pytest.raises(KeyError):
        machine.resumed(world.rollout, NOW)
    world = rolling()
    world.operate(machine.halted_by_operator(world.rollout, "", NOW))
    assert (world.rollout.reason, world.state) == ("OPERATOR", State.HALTED)
