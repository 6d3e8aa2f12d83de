"""The activation of one model: ready, failed, replaced cold, asleep."""

from __future__ import annotations

import copy
from dataclasses import replace

from broadsheet.v1 import snapshot_pb2
from dataplane.agent.desired import application_name
from dataplane.agent.giving_up import Failure
from dataplane.agent.reconciler.actions import Delete, Deploy
from dataplane.agent.reconciler.planning import plan
from dataplane.agent.situation import Phase
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
)


def test_application_with_an_endpoint_is_ready() -> None:
    running = application(entry())
    made = plan(situation(entry(), applications=(running,), last_activity={"models/m": NOW}))
    assert made.models["models/m"].state is State.READY
    assert made.models["models/m"].endpoints == running.endpoints


def test_running_application_without_endpoints_holds_requests_and_is_kept() -> None:
    restarting = application(entry(), endpoints=())
    made = plan(situation(entry(), applications=(restarting,), last_activity={"models/m": NOW}))
    assert made.actions == ()
    assert made.models["models/m"].state is State.DEPLOYING


def test_failed_new_revision_leaves_the_old_one_serving_and_is_reported() -> None:
    old, new = application(entry()), entry(number=2, args={"tokens_per_second": 5})
    failed = application(new, Phase.FAILED)
    made = plan(
        situation(
            new,
            applications=(old, failed),
            serving={"models/m": old.name},
            last_activity={"models/m": NOW},
            failures={failed.name: Failure(count=1, reason="ENGINE_ARGS_INVALID", message="no", retry_at=NOW + 10)},
        )
    )
    assert made.actions == (Delete(failed.name),)
    activation = made.models["models/m"]
    assert (activation.state, activation.application, activation.reason) == (
        State.DEGRADED,
        old.name,
        "ENGINE_ARGS_INVALID",
    )


def test_failed_model_reports_its_reason_and_waits() -> None:
    made = plan(failed_situation(retry_in_s=10, last_activity={"models/m": NOW}))
    assert made.actions == ()
    activation = made.models["models/m"]
    assert (activation.state, activation.reason, activation.message) == (
        State.FAILED,
        "SOURCE_NOT_FOUND",
        "nothing there",
    )
    assert activation.retry_after_s == 10


def test_failed_model_is_tried_again_after_the_backoff_while_it_is_wanted() -> None:
    made = plan(failed_situation(retry_in_s=-1, last_activity={"models/m": NOW}))
    assert made.actions == (Deploy(application_name(entry()), entry()),)
    assert made.models["models/m"].state is State.FAILED


def test_failed_model_reports_its_reason_while_it_is_tried_again() -> None:
    again = application(entry(), Phase.STARTING)
    made = plan(failed_situation(retry_in_s=-1, last_activity={"models/m": NOW}, applications={again.name: again}))
    assert made.actions == ()
    assert (made.models["models/m"].state, made.models["models/m"].reason) == (State.FAILED, "SOURCE_NOT_FOUND")


def test_failed_model_that_is_no_longer_wanted_still_reports_its_reason() -> None:
    made = plan(failed_situation(retry_in_s=-1, last_activity={"models/m": NOW - 2 * IDLE_S}))
    assert made.actions == ()
    assert made.models["models/m"].state is State.FAILED


def test_failure_of_an_earlier_spec_does_not_hold_back_the_next() -> None:
    fixed = entry(number=2, args={"start_up_s": 0})
    made = plan(failed_situation(retry_in_s=10, last_activity={"models/m": NOW}, snapshot=views.snapshot(fixed)))
    assert made.actions == (Deploy(application_name(fixed), fixed),)


def cold(of: snapshot_pb2.ModelEntry) -> snapshot_pb2.ModelEntry:
    made = copy.deepcopy(of)
    made.replace_cold = True
    return made


def test_cold_replacement_moves_at_once_and_deletes_the_old_application_when_it_is_released() -> None:
    old, new = application(OLD), cold(NEW)
    in_use = {"models/m": NOW}
    at_first = situation(new, applications=(old,), serving={"models/m": old.name}, last_activity=in_use)
    made = plan(at_first)
    assert made.actions == (Deploy(application_name(NEW), new),)
    assert (made.models["models/m"].state, made.models["models/m"].revision_number) == (State.DEPLOYING, 2)
    starting = application(NEW, Phase.STARTING)
    left = replace(old, left_sequence=9)
    moved = replace(at_first, serving={}, applications={left.name: left, starting.name: starting})
    assert plan(moved).actions == (Delete(old.name),)
    busy = replace(moved, applications={left.name: replace(left, in_use=1), starting.name: starting})
    assert plan(busy).actions == ()


def test_failed_cold_replacement_does_not_fall_back_to_the_old_application() -> None:
    failed = application(NEW, Phase.FAILED)
    failure = Failure(count=1, reason="OUT_OF_MEMORY", message="too big", retry_at=NOW + 10)
    made = plan(
        situation(
            cold(NEW),
            applications=(application(OLD), failed),
            serving={"models/m": application_name(OLD)},
            last_activity={"models/m": NOW},
            failures={failed.name: failure},
        )
    )
    assert (made.models["models/m"].state, made.models["models/m"].reason) == (State.FAILED, "OUT_OF_MEMORY")


def test_cold_replacement_without_new_replicas_keeps_the_application() -> None:
    running = application(OLD)
    changed = cold(OLD)
    changed.revision.number = 2
    made = plan(situation(changed, applications=(running,), last_activity={"models/m": NOW}))
    assert (made.actions, made.models["models/m"].state) == ((), State.READY)
