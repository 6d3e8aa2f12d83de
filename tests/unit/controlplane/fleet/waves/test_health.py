"""What hurts a data plane, compared with how it was before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from broadsheet.v1 import waves_pb2
from controlplane.fleet.data_plane import Traffic
from controlplane.fleet.waves.states import Event
from tests.unit.controlplane.fleet.waves.waves_world import World, failing, quarantining, rolling
from tests.unit.controlplane.fleet_world import at


@pytest.mark.parametrize(
    ("harm", "reason", "resource"),
    [
        ({"rejected": at(2), "reason": "ROOT_DIGEST_MISMATCH", "settled_revision": 2}, "ROOT_DIGEST_MISMATCH", ""),
        ({"settled_revision": 2}, "REJECTED", ""),
        ({"serving": at(2), "unwell": failing("models/m")}, "FAILED", "models/m"),
        ({"serving": at(2), "unwell": quarantining(["models/m"])}, "QUARANTINED", "models/m"),
        ({"serving": at(2), "with_errors": True}, "QUARANTINED", ""),
    ],
)
def test_who_is_hurt_is_named_and_nobody_else_gets_the_snapshot(
    harm: Mapping[str, Any], reason: str, resource: str
) -> None:
    world = rolling()
    world.serve("c2")
    world.say("c1", **harm)
    assert world.move() == [Event.HALT]
    assert [(item.data_plane_id, item.reason, item.resource) for item in world.rollout.hurt] == [
        ("c1", reason, resource)
    ]
    assert world.rollout.reason == reason
    assert world.move(after_s=10**6) == []
    assert world.given == {"c1", "c2"}


def test_what_was_broken_before_is_no_harm() -> None:
    world = World()
    world.say("c1", unwell={**failing("models/old"), **quarantining(["models/q"])})
    world.commit(2)
    world.move()
    world.serve("c1", "c2")
    assert Event.NEXT in world.move()
    # Another one that fails is, although the old one is well again.
    world.say("c1", unwell=failing("models/new"))
    assert world.move() == [Event.HALT]
    assert world.rollout.hurt[0].resource == "models/new"


def test_limits_tolerate_some_harm() -> None:
    world = rolling(limits=waves_pb2.FleetHealthLimits(failed=1, quarantined=2))
    world.serve("c1", "c2")
    world.say("c1", unwell={**failing("models/a"), **quarantining(["models/b", "models/c"])})
    assert Event.NEXT in world.move()
    world.say("c1", unwell=failing("models/a", "models/d"))
    assert world.move() == [Event.HALT]


@pytest.mark.parametrize(
    ("traffic", "halts"),
    [
        # Before, 2 of 100 have failed, and 1 percent point more is allowed.
        (Traffic(1100, 30), False),
        (Traffic(1100, 52), True),
        (Traffic(199, 100), False),  # 99 requests are too few to judge by
        (Traffic(300, 100), True),  # the agent has started again, and counts from 0
    ],
)
def test_a_higher_share_of_errors_halts(traffic: Traffic, halts: bool) -> None:
    world = World()
    world.say("c1", traffic=Traffic(100, 2))
    world.commit(2)
    world.move()
    world.serve("c1", "c2")
    world.say("c1", traffic=traffic)
    assert (world.move() == [Event.HALT]) == halts
    if halts:
        assert world.rollout.reason == "ERROR_SHARE"


def test_errors_are_not_compared_where_nothing_was_known_before() -> None:
    world = rolling()
    world.serve("c1", "c2")
    world.say("c1", traffic=Traffic(10_000, 5000))
    assert Event.NEXT in world.move()


def test_the_share_before_is_that_of_the_last_minutes() -> None:
    world = World()
    world.say("c1", traffic=Traffic(1_000_000, 0))
    world.clock.sample(world.seen.values, world.now_s)
    # It has been failing for minutes, and the snapshot is not to blame.
    world.say("c1", traffic=Traffic(1_000_200, 100))
    world.commit(2)
    world.move()
    world.serve("c1", "c2")
    world.say("c1", traffic=Traffic(1_000_400, 200))
    assert Event.NEXT in world.move()


def test_a_data_plane_that_dies_with_the_snapshot_is_hurt_in_whatever_wave() -> None:
    world = rolling()
    world.serve("c1", "c2")
    world.move()
    assert world.rollout.wave == 2
    world.say("c1", connected=False)
    assert world.move(after_s=0) == []
    assert world.move(after_s=59) == []
    assert world.move(after_s=1) == [Event.HALT]
    assert world.rollout.reason == "DISCONNECTED"


def test_a_stream_that_comes_back_in_time_is_no_harm() -> None:
    world = rolling()
    for _ in range(5):
        world.say("c1", connected=False)
        assert world.move(after_s=50) == []
        world.say("c1", connected=True)
        assert world.move(after_s=1) == []
