"""Deletion, scaling and sleep of the applications that exist."""

from __future__ import annotations

from dataclasses import replace

from dataplane.agent.desired import application_name
from dataplane.agent.reconciler.actions import Delete, Plan, Rescale, Sleep, Wake
from dataplane.agent.reconciler.planning import plan
from dataplane.agent.situation import Phase
from dataplane.snapshot.activation import State
from tests import views
from tests.unit.dataplane.agent.reconciler.situations import (
    NEW,
    NOW,
    OLD,
    PINNED,
    application,
    asleep,
    entry,
    situation,
    sleeper,
)


def test_application_of_a_deleted_model_is_deleted_when_it_is_released() -> None:
    orphan = application(entry())
    assert plan(situation(applications=(replace(orphan, in_use=1),))).actions == ()
    assert plan(situation(applications=(orphan,))).actions == (Delete(orphan.name),)


def test_application_is_deleted_once() -> None:
    assert plan(situation(applications=(application(entry(), Phase.DELETING, endpoints=()),))).actions == ()


def test_without_an_ingress_nothing_holds_an_application() -> None:
    orphan = application(entry(), left_sequence=10)
    assert plan(situation(applications=(orphan,), ingress_sequence=None)).actions == (Delete(orphan.name),)


def test_application_of_an_unpinned_revision_is_deleted_when_it_is_released() -> None:
    old, new = application(OLD, left_sequence=9), application(NEW)
    serving = {"models/m": new.name}
    active = {"models/m": NOW}
    made = plan(situation(NEW, applications=(old, new), serving=serving, last_activity=active))
    assert made.actions == (Delete(old.name),)
    busy = replace(old, in_use=1)
    assert plan(situation(NEW, applications=(busy, new), serving=serving, last_activity=active)).actions == ()


def test_scaling_change_updates_the_running_application_in_place() -> None:
    changed = entry(number=2)
    changed.revision.spec.scaling.max_replicas = 4
    for phase in (Phase.STARTING, Phase.RUNNING):
        at_first = situation(changed, applications=(application(entry(), phase),), last_activity={"models/m": NOW})
        (rescale,) = plan(at_first).actions
        assert rescale == Rescale(application_name(entry()), changed)
        scaled = replace(at_first, applications={rescale.application: application(changed, phase)})
        assert plan(scaled).actions == ()


def test_scaling_at_zero_does_not_update_the_application() -> None:
    changed = entry(number=2, min_replicas=1)
    changed.revision.spec.scaling.downscale_to_zero_delay.seconds = 1
    made = plan(situation(changed, applications=(application(entry()),), last_activity={"models/m": NOW}))
    assert made.actions == ()


def test_scaling_of_the_model_counts_where_a_pin_shares_its_application() -> None:
    pinned, current = entry(), entry(number=2)
    current.revision.spec.scaling.max_replicas = 4
    last_activity = {"models/m": NOW, PINNED: NOW}
    shared = application(pinned)
    made = plan(situation(current, views.pinned(pinned), applications=(shared,), last_activity=last_activity))
    assert made.actions == (Rescale(shared.name, current),)
    shared = application(current)
    made = plan(situation(current, views.pinned(pinned), applications=(shared,), last_activity=last_activity))
    assert made.actions == ()
    del last_activity["models/m"]  # only the pin is used
    made = plan(situation(current, views.pinned(pinned), applications=(shared,), last_activity=last_activity))
    assert [action.entry.name for action in made.actions if isinstance(action, Rescale)] == [PINNED]


def test_idle_sleeper_is_put_to_sleep_when_it_is_released() -> None:
    running = application(sleeper(), left_sequence=9)
    leaving = situation(sleeper(), applications=(running,), serving={"models/m": running.name})
    assert plan(leaving).actions == ()
    assert plan(leaving).models["models/m"].state is State.IDLE
    assert not plan(leaving).models["models/m"].endpoints
    for held in (
        replace(leaving, serving={}, ingress_sequence=8),
        situation(sleeper(), applications=(replace(running, in_use=1),)),
    ):
        assert plan(held).actions == ()
    assert plan(replace(leaving, serving={})).actions == (Sleep(running.name),)


def test_sleeper_is_kept_and_reported_as_asleep() -> None:
    made = plan(situation(sleeper(), applications=(asleep(sleeper()),)))
    assert made.actions == ()
    assert (made.models["models/m"].state, made.models["models/m"].reason) == (State.IDLE, "ASLEEP")
    falling_asleep = replace(asleep(sleeper()), all_asleep=False)
    assert plan(situation(sleeper(), applications=(falling_asleep,))).models["models/m"].reason == ""


def test_requested_sleeper_is_woken_and_its_requests_wait() -> None:
    made = plan(situation(sleeper(), applications=(asleep(sleeper()),), last_activity={"models/m": NOW}))
    assert made.actions == (Wake(application_name(sleeper())),)
    assert made.models["models/m"].state is State.DEPLOYING


def test_model_that_has_not_run_does_not_sleep() -> None:
    assert plan(situation(sleeper())) == Plan(actions=(), models={})
    starting = application(sleeper(), Phase.STARTING)
    assert plan(situation(sleeper(), applications=(starting,))).actions == (Delete(starting.name),)


def test_sleeper_that_a_pin_uses_stays_awake() -> None:
    running = application(sleeper())
    shared = situation(
        sleeper(),
        views.pinned(sleeper()),
        applications=(running,),
        serving={PINNED: running.name},
        last_activity={PINNED: NOW},
    )
    assert plan(shared).actions == ()
    assert plan(shared).models[PINNED].state is State.READY


def test_sleeper_of_another_spec_is_deleted() -> None:
    changed = sleeper()
    changed.revision.spec.engine.args["start_up_s"] = 1
    old = asleep(sleeper())
    assert plan(situation(changed, applications=(old,))).actions == (Delete(old.name),)
