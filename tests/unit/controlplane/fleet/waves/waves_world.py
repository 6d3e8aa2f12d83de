"""A rollout that tests move by hand: data planes as they were last seen, and a clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from broadsheet.v1 import status_pb2, waves_pb2
from controlplane.catalog.domain import Head
from controlplane.fleet.waves import machine
from controlplane.fleet.waves.clock import WavesClock
from controlplane.fleet.waves.health import Seen
from controlplane.fleet.waves.machine import Situation, next_step
from controlplane.fleet.waves.policy import policy_of
from controlplane.fleet.waves.rollout import Rollout, from_bytes, to_bytes
from controlplane.fleet.waves.states import Event, State
from tests.unit.controlplane.fleet_world import at, head

NOW = datetime(2026, 1, 1, tzinfo=UTC)

CANARY = waves_pb2.Wave(labels=waves_pb2.LabelSelector(labels={"tier": "canary"}))


def wave(
    *, soak_s: int = 0, timeout_s: int = 1800, min_healthy: int = 100, base: waves_pb2.Wave = CANARY
) -> waves_pb2.Wave:
    made = waves_pb2.Wave()
    made.CopyFrom(base)
    made.soak.FromSeconds(soak_s)
    made.timeout.FromSeconds(timeout_s)
    made.min_healthy_percent = min_healthy
    return made


def status(state: status_pb2.ResourceState.ValueType) -> status_pb2.ResourceStatus:
    return status_pb2.ResourceStatus(state=state)


FAILED = status(status_pb2.RESOURCE_STATE_FAILED)
QUARANTINED = status(status_pb2.RESOURCE_STATE_QUARANTINED)


class World:
    """Two canaries and two others that serve revision 1, and a policy with these waves."""

    def __init__(self, *waves: waves_pb2.Wave, limits: waves_pb2.FleetHealthLimits | None = None) -> None:
        self.policy = waves_pb2.FleetPolicy(waves=waves or [CANARY], health_limits=limits)
        self.rollout = Rollout(stable=head(1), update_time=NOW)
        self.newest = head(1)
        self.rollback_revision = 0
        self.now_s = 1000.0
        self.clock = WavesClock()
        self.events: list[Event] = []
        self.seen = {
            name: Seen(
                data_plane_id=name,
                labels={"tier": "canary"} if name.startswith("c") else {},
                serving=at(1),
                settled_revision=1,
            )
            for name in ("c1", "c2", "o1", "o2")
        }

    @property
    def state(self) -> State:
        return self.rollout.state

    @property
    def given(self) -> set[str]:
        return set(self.rollout.given)

    @property
    def situation(self) -> Situation:
        return Situation(
            newest=self.newest,
            policy_message=self.policy.SerializeToString(),
            policy=policy_of(self.policy),
            rollback_revision=self.rollback_revision,
            seen=list(self.seen.values()),
            now=NOW,
            now_s=self.now_s,
            clock=self.clock,
        )

    def commit(self, revision: int) -> None:
        self.newest = head(revision)

    def say(self, name: str, **fields: Any) -> None:
        """A data plane reports something, or loses its stream."""
        self.seen[name] = replace(self.seen[name], **fields)

    def serve(self, *names: str, revision: int | None = None) -> None:
        """These data planes serve what they may have, or this revision."""
        for name in names:
            allowed = self.rollout.target if name in self.rollout.given else self.rollout.stable
            assert allowed is not None
            position = allowed.position if revision is None else at(revision)
            self.say(name, serving=position, settled_revision=position.revision)

    def move(self, *, after_s: float = 0.0) -> list[Event]:
        """Make every move that is due. Returns them."""
        self.now_s += after_s
        moves: list[Event] = []
        while True:
            self.clock.observe(self.rollout, self.seen.values(), self.now_s)
            step = next_step(self.rollout, self.situation)
            if step is None:
                break
            assert len(moves) < 100, moves
            self.rollout = step.rollout
            moves.append(step.event)
        self.events += moves
        return moves

    def operate(self, step: machine.Step) -> None:
        self.rollout = step.rollout

    def restart(self) -> None:
        """Another process takes over: it has what is stored, and a clock of its own."""
        self.rollout = from_bytes(to_bytes(self.rollout), store_uid="s")
        self.clock = WavesClock()
        self.now_s = 0.0

    def allowed(self, name: str) -> Head:
        target = self.rollout.target
        return target if target is not None and name in self.rollout.given else self.rollout.stable


def failing(*names: str) -> Mapping[str, status_pb2.ResourceStatus]:
    return dict.fromkeys(names, FAILED)


def quarantining(names: Iterable[str]) -> Mapping[str, status_pb2.ResourceStatus]:
    return dict.fromkeys(names, QUARANTINED)


def rolling(*waves: waves_pb2.Wave, limits: waves_pb2.FleetHealthLimits | None = None) -> World:
    """The canaries have been given revision 2, and do not serve it yet."""
    world = World(*waves, limits=limits)
    world.commit(2)
    assert world.move() == [Event.BEGIN, Event.GIVE]
    assert (world.state, world.given) == (State.ROLLING, {"c1", "c2"})
    return world
