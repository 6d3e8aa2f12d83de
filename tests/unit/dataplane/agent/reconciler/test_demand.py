"""When a model is wanted, and when it becomes idle."""

from __future__ import annotations

from dataclasses import replace

from dataplane.agent.desired import application_name
from dataplane.agent.reconciler.actions import Delete, Deploy, Plan
from dataplane.agent.reconciler.planning import plan
from dataplane.snapshot.activation import State
from tests import views
from tests.unit.dataplane.agent.reconciler.situations import (
    IDLE_S,
    NEW,
    NOW,
    OLD,
    application,
    entry,
    failed_situation,
    situation,
    warmed,
)


def test_idle_model_leaves_the_activation_before_it_is_deleted() -> None:
    running = application(entry(), ready_at=NOW - 2 * IDLE_S)
    idle = situation(
        entry(), applications=(running,), serving={"models/m": running.name}, last_activity={"models/m": NOW - IDLE_S}
    )
    assert plan(idle) == Plan(actions=(), models={})
    left = replace(idle, serving={}, applications={running.name: replace(running, left_sequence=9)})
    assert plan(left) == Plan(actions=(Delete(running.name),), models={})


def test_model_is_not_idle_until_its_delay_after_it_became_ready() -> None:
    running = application(entry(), ready_at=NOW - IDLE_S + 1)
    made = plan(
        situation(
            entry(),
            applications=(running,),
            serving={"models/m": running.name},
            last_activity={"models/m": NOW - 2 * IDLE_S},
        )
    )
    assert made.models["models/m"].state is State.READY


def test_idle_model_that_is_requested_before_its_deletion_is_kept() -> None:
    running = application(entry(), left_sequence=9)
    made = plan(situation(entry(), applications=(running,), last_activity={"models/m": NOW}))
    assert made.actions == ()
    assert made.models["models/m"].state is State.READY


def test_warmed_model_is_deployed_as_a_request_would_deploy_it() -> None:
    warm = warmed(NOW + 0.5)
    assert plan(situation(warm)).actions == (Deploy(application_name(entry()), warm),)
    assert plan(situation(warmed(NOW))) == Plan(actions=(), models={})


def test_warmed_model_stays_up_and_then_becomes_idle_like_any_other() -> None:
    running = application(entry(), ready_at=NOW - 2 * IDLE_S, left_sequence=9)
    assert plan(situation(warmed(NOW + 1), applications=(running,))).models["models/m"].state is State.READY
    assert plan(situation(warmed(NOW), applications=(running,))) == Plan(actions=(Delete(running.name),), models={})
    asked = situation(warmed(NOW), applications=(running,), last_activity={"models/m": NOW - IDLE_S + 1})
    assert plan(asked).models["models/m"].state is State.READY
    young = replace(running, ready_at=NOW - IDLE_S + 1)
    assert plan(situation(warmed(NOW), applications=(young,))).models["models/m"].state is State.READY


def test_warmed_model_that_fails_is_tried_again_while_it_is_wanted() -> None:
    failing = failed_situation(retry_in_s=-1)
    wanted = plan(replace(failing, snapshot=views.snapshot(warmed(NOW + 1))))
    assert [action.application for action in wanted.actions] == [application_name(entry())]
    over = plan(replace(failing, snapshot=views.snapshot(warmed(NOW - 1))))
    assert over.actions == ()
    for made in (wanted, over):
        activation = made.models["models/m"]
        assert (activation.state, activation.reason) == (State.FAILED, "SOURCE_NOT_FOUND")


def test_warming_ends_by_the_time_of_day_which_may_have_been_set_right() -> None:
    assert plan(situation(warmed(NOW + 1), time_of_day=NOW + 3600)) == Plan(actions=(), models={})
    assert plan(situation(warmed(NOW - 1), time_of_day=NOW - 3600)).actions


def test_warming_a_model_does_not_warm_its_pinned_revisions() -> None:
    made = plan(situation(warmed(NOW + 1, NEW), views.pinned(OLD)))
    assert set(made.models) == {"models/m"}
