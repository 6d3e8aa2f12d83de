"""Rollouts: each move by itself, and any sequence of events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf import json_format
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broadsheet.v1 import model_pb2, rollout_pb2, status_pb2
from controlplane import errors
from controlplane.catalog import domain, rollout
from controlplane.catalog.domain import Stamp
from controlplane.catalog.registration import ModelDraft, registered_model
from controlplane.catalog.rollout import Decision, Move, Observed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
READY, IDLE = status_pb2.RESOURCE_STATE_READY, status_pb2.RESOURCE_STATE_IDLE
DEPLOYING, FAILED = status_pb2.RESOURCE_STATE_DEPLOYING, status_pb2.RESOURCE_STATE_FAILED
QUARANTINED, SILENT = status_pb2.RESOURCE_STATE_QUARANTINED, status_pb2.RESOURCE_STATE_UNSPECIFIED
State = rollout_pb2.Rollout
Control = rollout_pb2.ControlRolloutRequest
POLICY = {
    "strategy": "STRATEGY_CANARY",
    "steps": [{"percent": 5, "hold": "60s"}, {"percent": 50, "hold": "10s"}],
    "healthTimeout": "300s",
}


def policy(**fields: object) -> rollout_pb2.RolloutPolicy:
    return rollout.resolved(json_format.ParseDict({**POLICY, **fields}, rollout_pb2.RolloutPolicy()))


def stamp(now: datetime = NOW, revision: int = 1) -> Stamp:
    return Stamp(uid="u", now=now, catalog_revision=revision)


def draft(content: int, *, canary: rollout_pb2.RolloutPolicy | None = None, card: str = "") -> ModelDraft:
    return ModelDraft(
        id="m",
        served_name="m",
        labels={},
        spec=model_pb2.ModelSpec(resources=model_pb2.Resources(memory_bytes=content)),
        card=model_pb2.ModelCard(display_name=card),
        rollout_policy=canary if canary is not None else policy(),
    )


def changed(*, canary: rollout_pb2.RolloutPolicy | None = None, now: datetime = NOW) -> domain.Model:
    """A model whose second revision has just been registered."""
    first = registered_model(None, draft(1, canary=canary), stamp(now))
    return registered_model(first, draft(2, canary=canary), stamp(now, 2))


def seen(*states: status_pb2.ResourceState.ValueType) -> Sequence[Observed]:
    return [
        Observed(data_plane=f"dataPlanes/{index}", state=state, reason="R", message="no")
        for index, state in enumerate(states)
    ]


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_a_changed_spec_starts_at_the_first_step_beside_the_stable_revision() -> None:
    model = changed()
    assert model.stable is not None
    assert (model.revision.number, model.stable.number) == (2, 1)
    assert model.rollout is not None
    assert (model.rollout.state, model.rollout.step, model.rollout.step_count) == (State.STATE_RUNNING, 1, 2)
    assert (model.rollout.percent, model.rollout.revision_number, model.rollout.stable_number) == (5, 2, 1)


def test_a_new_model_and_a_changed_card_have_no_rollout() -> None:
    first = registered_model(None, draft(1), stamp())
    carded = registered_model(first, draft(1, card="x"), stamp())
    assert (first.rollout, carded.rollout, carded.stable) == (None, None, None)
    assert carded.revision.number == 2


def test_without_a_canary_policy_the_new_revision_replaces_the_old() -> None:
    replacing = rollout.resolved(rollout_pb2.RolloutPolicy())
    assert replacing == domain.REPLACE
    model = changed(canary=replacing)
    assert (model.rollout, model.stable, model.revision.number) == (None, None, 2)


def test_the_next_step_follows_when_the_hold_is_over_and_all_are_healthy() -> None:
    model = changed()
    assert rollout.decide(model, seen(READY, READY), at(59.9)) is None
    assert rollout.decide(model, seen(READY, DEPLOYING), at(60)) is None
    assert rollout.decide(model, seen(READY, SILENT), at(60)) is None
    assert rollout.decide(model, seen(READY, READY), at(60)) == Decision(move=Move.STEP)
    second = rollout.moved(model, Decision(move=Move.STEP), stamp(at(60), 3))
    assert second.rollout is not None
    assert (second.rollout.step, second.rollout.percent, second.catalog_revision) == (2, 50, 3)
    assert rollout.decide(second, seen(READY), at(69)) is None
    assert rollout.decide(second, seen(READY), at(70)) == Decision(move=Move.COMPLETE)


def test_idle_is_healthy_only_if_the_policy_does_not_require_warm() -> None:
    assert rollout.decide(changed(), seen(IDLE), at(60)) is None
    cold = changed(canary=policy(requireWarm=False))
    assert rollout.decide(cold, seen(IDLE), at(60)) == Decision(move=Move.STEP)


def test_with_no_data_plane_connected_nothing_moves() -> None:
    assert rollout.decide(changed(), (), at(10**6)) is None


@pytest.mark.parametrize("state", [FAILED, QUARANTINED])
def test_a_failure_anywhere_reverts_at_once_with_its_reason(state: status_pb2.ResourceState.ValueType) -> None:
    decision = rollout.decide(changed(), seen(READY, state), at(1))
    assert decision == Decision(move=Move.REVERT, reason="R", message="dataPlanes/1: no")
    paused = rollout.controlled(changed(), Control.ACTION_PAUSE, stamp())
    assert rollout.decide(paused, seen(READY, state), at(1)) == decision


def test_a_rollout_that_is_too_slow_reverts() -> None:
    assert rollout.decide(changed(), seen(READY, DEPLOYING), at(359)) is None
    decision = rollout.decide(changed(), seen(READY, DEPLOYING), at(360))
    assert decision is not None
    assert (decision.move, decision.reason) == (Move.REVERT, "HEALTH_TIMEOUT")
    assert "dataPlanes/1" in decision.message


def test_completion_leaves_the_new_revision_alone() -> None:
    model = rollout.moved(changed(), Decision(move=Move.COMPLETE), stamp())
    assert model.rollout is not None
    assert (model.rollout.state, model.rollout.percent, model.stable) == (State.STATE_COMPLETE, 100, None)
    assert model.revision.number == 2
    assert rollout.decide(model, seen(FAILED), at(10**6)) is None


def test_a_revert_is_a_new_revision_with_the_content_of_the_stable_one() -> None:
    model = rollout.moved(changed(), Decision(move=Move.REVERT, reason="R", message="w"), stamp(at(5), 3))
    assert model.rollout is not None
    assert (model.rollout.state, model.rollout.reason, model.rollout.message) == (State.STATE_REVERTED, "R", "w")
    assert (model.rollout.percent, model.stable) == (0, None)
    assert (model.revision.number, model.revision.spec.resources.memory_bytes) == (3, 1)
    assert (model.revision.create_time, model.revision.catalog_revision) == (at(5), 3)


def test_a_change_during_a_rollout_begins_anew_over_the_same_stable_revision() -> None:
    stepped = rollout.moved(changed(), Decision(move=Move.STEP), stamp())
    third = registered_model(stepped, draft(3), stamp(at(9), 4))
    assert third.stable is not None
    assert third.rollout is not None
    assert (third.revision.number, third.stable.number, third.rollout.step) == (3, 1, 1)


def test_a_changed_card_is_put_in_place_and_leaves_the_rollout_at_its_step() -> None:
    stepped = rollout.moved(changed(), Decision(move=Move.STEP), stamp(at(60), 3))
    carded = registered_model(stepped, draft(2, card="x"), stamp(at(65), 4))
    assert stepped.rollout is not None
    assert carded.rollout is not None
    assert carded.stable == stepped.stable
    assert (carded.revision.number, carded.rollout.revision_number) == (3, 3)
    assert (carded.rollout.step, carded.rollout.percent) == (2, 50)
    assert carded.rollout.update_time == stepped.rollout.update_time


def test_a_change_of_the_policy_to_replace_ends_the_rollout_with_the_new_revision() -> None:
    replacing = rollout.resolved(rollout_pb2.RolloutPolicy())
    for model in (changed(), rollout.controlled(changed(), Control.ACTION_PAUSE, stamp())):
        ended = registered_model(model, draft(2, canary=replacing), stamp(at(5), 3))
        assert ended.rollout is not None
        assert (ended.rollout.state, ended.rollout.percent, ended.stable) == (State.STATE_COMPLETE, 100, None)
        assert ended.revision.number == 2
        assert rollout.decide(ended, seen(READY, DEPLOYING), at(6)) is None


@pytest.mark.parametrize(
    ("percents", "step", "percent"), [([5, 20, 50], 1, 5), ([1, 2, 3], 3, 5), ([10, 50], 1, 10), ([4], 1, 5)]
)
def test_a_new_policy_is_followed_from_the_current_share_on(percents: list[int], step: int, percent: int) -> None:
    steps = [{"percent": percent} for percent in percents]
    model = registered_model(changed(), draft(2, canary=policy(steps=steps)), stamp(at(5), 3))
    assert model.rollout is not None
    assert (model.rollout.step, model.rollout.step_count) == (step, len(percents))
    assert model.rollout.percent == percent


def test_a_shorter_health_timeout_counts_from_the_change_of_the_policy() -> None:
    model = registered_model(changed(), draft(2, canary=policy(healthTimeout="1s")), stamp(at(200), 3))
    assert rollout.decide(model, seen(DEPLOYING), at(201)) is None
    assert rollout.decide(model, seen(DEPLOYING), at(261)) is not None


def test_a_data_plane_that_connects_late_has_the_whole_time_to_become_healthy() -> None:
    late = [Observed(data_plane="dataPlanes/late", state=SILENT, connect_time=at(10_000))]
    assert rollout.decide(changed(), late, at(10_359)) is None
    assert rollout.decide(changed(), [*seen(READY), *late], at(10_359)) is None
    decision = rollout.decide(changed(), late, at(10_360))
    assert decision is not None
    assert decision.reason == "HEALTH_TIMEOUT"


def test_registering_the_stable_content_again_ends_the_rollout() -> None:
    back = registered_model(changed(), draft(1), stamp())
    assert (back.revision.number, back.rollout, back.stable) == (3, None, None)


def test_a_change_at_once_skips_and_ends_a_rollout() -> None:
    for content in (1, 2, 3):
        model = registered_model(changed(), replace(draft(content), at_once=True), stamp())
        assert (model.rollout, model.stable, model.revision.spec.resources.memory_bytes) == (None, None, content)
        assert model.rollout_policy == policy()


def test_pause_resume_and_abort() -> None:
    paused = rollout.controlled(changed(), Control.ACTION_PAUSE, stamp(at(10)))
    assert rollout.decide(paused, seen(READY), at(10**6)) is None
    resumed = rollout.controlled(paused, Control.ACTION_RESUME, stamp(at(1000)))
    assert rollout.decide(resumed, seen(READY), at(1059)) is None
    assert rollout.decide(resumed, seen(READY), at(1060)) == Decision(move=Move.STEP)
    for model in (changed(), paused):
        aborted = rollout.controlled(model, Control.ACTION_ABORT, stamp())
        assert aborted.rollout is not None
        assert (aborted.rollout.state, aborted.rollout.reason) == (State.STATE_REVERTED, "ABORTED")


@pytest.mark.parametrize("action", [Control.ACTION_PAUSE, Control.ACTION_RESUME, Control.ACTION_ABORT])
def test_a_rollout_that_is_not_under_way_cannot_be_controlled(action: Control.Action.ValueType) -> None:
    for model in (
        registered_model(None, draft(1), stamp()),
        rollout.moved(changed(), Decision(move=Move.COMPLETE), stamp()),
    ):
        with pytest.raises(errors.FailedPrecondition) as caught:
            rollout.controlled(model, action, stamp())
        assert caught.value.reason is errors.Reason.ROLLOUT_NOT_IN_STATE
    with pytest.raises(errors.FailedPrecondition):
        rollout.controlled(changed(), Control.ACTION_RESUME, stamp())


def test_steps_that_do_not_increase_are_refused() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        policy(steps=[{"percent": 50}, {"percent": 5}])
    assert caught.value.violations[0].field == "rollout_policy.steps"


def test_a_rollout_completes_if_its_policy_has_fewer_steps_now() -> None:
    stepped = rollout.moved(changed(), Decision(move=Move.STEP), stamp())
    fewer = replace(stepped, rollout_policy=policy(steps=[{"percent": 7}]))
    assert rollout.decide(fewer, seen(READY), at(0)) == Decision(move=Move.COMPLETE)


class RolloutMachine(RuleBasedStateMachine):
    """A model, two data planes that report any state, and a driver that runs at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.content = 1
        self.model = registered_model(None, draft(1), self.stamp())
        self.percents: list[int] = []
        self.states = [READY, READY]
        self.callers_had = 1
        """The content that most callers get: that of the last completed rollout, or the first."""

    def stamp(self) -> Stamp:
        return stamp(self.now)

    @rule(content=st.integers(1, 4))
    def register(self, content: int) -> None:
        self.model = registered_model(self.model, draft(content), self.stamp())
        self.percents = [self.model.rollout.percent] if rollout.is_under_way(self.model) and self.model.rollout else []

    @rule(card=st.sampled_from("abc"))
    def edit_card(self, card: str) -> None:
        edited = draft(self.model.revision.spec.resources.memory_bytes, card=card)
        self.model = registered_model(self.model, edited, self.stamp())

    @rule(index=st.integers(0, 1), state=st.sampled_from([READY, IDLE, DEPLOYING, FAILED, SILENT]))
    def report(self, index: int, state: status_pb2.ResourceState.ValueType) -> None:
        self.states[index] = state

    @rule(seconds=st.sampled_from([1, 30, 60, 400]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: rollout.is_under_way(self.model))
    @rule(action=st.sampled_from(list(Control.Action.values())[1:]))
    def control(self, action: Control.Action.ValueType) -> None:
        before = self.model
        try:
            self.model = rollout.controlled(self.model, action, self.stamp())
        except errors.FailedPrecondition:
            assert self.model is before

    @rule()
    def drive(self) -> None:
        decision = rollout.decide(self.model, seen(*self.states), self.now)
        if decision is None:
            return
        stable = self.model.stable
        assert stable is not None
        if decision.move is Move.REVERT:
            assert set(self.states) != {READY}
        else:
            assert self.states == [READY, READY], "it advanced although a data plane was not healthy"
            assert self.model.rollout is not None
            assert self.model.rollout.state == State.STATE_RUNNING
        self.model = rollout.moved(self.model, decision, self.stamp())
        if decision.move is Move.COMPLETE:
            self.callers_had = self.model.revision.spec.resources.memory_bytes
        elif self.model.rollout is not None and decision.move is Move.STEP:
            self.percents.append(self.model.rollout.percent)

    @invariant()
    def a_stable_revision_exists_exactly_while_a_rollout_is_under_way(self) -> None:
        assert (self.model.stable is not None) == rollout.is_under_way(self.model)

    @invariant()
    def most_callers_have_a_healthy_revision(self) -> None:
        most = self.model.stable or self.model.revision
        assert most.spec.resources.memory_bytes == self.callers_had

    @invariant()
    def shares_only_increase(self) -> None:
        assert self.percents == sorted(set(self.percents))


TestRollouts = RolloutMachine.TestCase
TestRollouts.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
