"""The rules of a plan: what is deployed, replaced and deleted when."""

from __future__ import annotations

from dataclasses import replace

from dataplane.agent.desired import application_name
from dataplane.agent.giving_up import Failure
from dataplane.agent.reconciler.actions import Delete, Deploy, Plan
from dataplane.agent.reconciler.planning import plan
from dataplane.agent.situation import Application, Phase, Situation
from dataplane.snapshot.activation import State
from tests import views
from tests.unit.dataplane.agent.reconciler.situations import NEW, NOW, OLD, PINNED, application, entry, situation


def test_model_at_zero_without_requests_gets_no_application() -> None:
    assert plan(situation(entry())) == Plan(actions=(), models={})


def test_model_with_min_replicas_is_deployed_without_a_request() -> None:
    wanted = entry(min_replicas=1)
    made = plan(situation(wanted))
    assert made.actions == (Deploy(application_name(wanted), wanted),)
    assert made.models["models/m"].state is State.DEPLOYING


def test_woken_model_is_deployed() -> None:
    made = plan(situation(entry(), last_activity={"models/m": NOW}))
    assert made.actions == (Deploy(application_name(entry()), entry()),)


def test_held_request_alone_deploys_the_model() -> None:
    made = plan(situation(entry(), in_flight={"models/m": 1}))
    assert made.actions == (Deploy(application_name(entry()), entry()),)


def test_starting_application_is_not_deployed_again() -> None:
    starting = application(entry(), Phase.STARTING, message="waits for a GPU")
    made = plan(situation(entry(), applications=(starting,), last_activity={"models/m": NOW}))
    assert made.actions == ()
    assert made.models["models/m"].state is State.DEPLOYING
    assert made.models["models/m"].message == "waits for a GPU"


def test_card_change_keeps_the_application_and_answers_as_the_new_revision() -> None:
    changed = entry(number=2)
    changed.revision.card.description = "new words"
    made = plan(situation(changed, applications=(application(entry()),), last_activity={"models/m": NOW}))
    assert made.actions == ()
    assert made.models["models/m"].revision_number == 2


def test_changed_model_in_use_gets_the_new_application_beside_the_old_one() -> None:
    old, new = application(entry()), entry(number=2, args={"tokens_per_second": 5})
    made = plan(situation(new, applications=(old,), serving={"models/m": old.name}, last_activity={"models/m": NOW}))
    assert made.actions == (Deploy(application_name(new), new),)
    assert (made.models["models/m"].application, made.models["models/m"].revision_number) == (old.name, 1)
    assert made.models["models/m"].state is State.READY


def test_requests_move_when_the_new_application_answers_and_the_old_one_stays_until_released() -> None:
    old, new = application(entry()), entry(number=2, args={"tokens_per_second": 5})
    both = (old, application(new))
    at_first = situation(new, applications=both, serving={"models/m": old.name}, last_activity={"models/m": NOW})
    made = plan(at_first)
    assert made.models["models/m"].application == application_name(new)
    assert made.actions == ()

    moved = replace(at_first, serving={"models/m": application_name(new)})

    def with_old(changed: Application) -> Situation:
        return replace(moved, applications={**moved.applications, old.name: changed})

    left = replace(old, left_sequence=9)
    assert plan(with_old(replace(old, left_sequence=10))).actions == ()  # an ingress replica still decides by 9
    assert plan(with_old(replace(left, in_use=1))).actions == ()  # a request is still in it
    assert plan(with_old(left)).actions == (Delete(old.name),)
    assert plan(with_old(replace(left, in_use=1, drain_overdue=True))).actions == (Delete(old.name),)


def test_application_being_deleted_is_deployed_again_only_when_it_is_gone() -> None:
    going = application(entry(), Phase.DELETING, endpoints=())
    made = plan(situation(entry(), applications=(going,), last_activity={"models/m": NOW}))
    assert made.actions == ()
    assert made.models["models/m"].state is State.DEPLOYING


def test_failed_model_does_not_affect_another() -> None:
    broken, healthy = entry("broken", min_replicas=1), entry("healthy", min_replicas=1)
    running = application(healthy)
    failure = Failure(count=3, reason="SOURCE_NOT_FOUND", message="", retry_at=NOW + 60)
    made = plan(
        situation(
            broken,
            healthy,
            applications=(running, application(broken, Phase.FAILED)),
            serving={healthy.name: running.name},
            failures={application_name(broken): failure},
        )
    )
    assert made.models[healthy.name].state is State.READY
    assert made.models[broken.name].state is State.FAILED
    assert made.actions == (Delete(application_name(broken)),)


def test_requested_pinned_revision_is_deployed_beside_the_current_one() -> None:
    current = application(NEW)
    made = plan(
        situation(
            NEW,
            views.pinned(OLD),
            applications=(current,),
            serving={"models/m": current.name},
            last_activity={"models/m": NOW, PINNED: NOW},
        )
    )
    (deploy,) = made.actions
    assert isinstance(deploy, Deploy)
    assert (deploy.application, deploy.entry.revision.number) == (application_name(OLD), 1)
    assert made.models["models/m"].application == current.name
    assert made.models[PINNED].state is State.DEPLOYING


def test_pinned_revision_at_zero_without_requests_gets_no_application() -> None:
    assert plan(situation(NEW, views.pinned(OLD))) == Plan(actions=(), models={})


def test_pin_of_the_current_revision_shares_its_application() -> None:
    running = application(OLD)
    made = plan(
        situation(
            OLD,
            views.pinned(OLD),
            applications=(running,),
            serving={"models/m": running.name},
            last_activity={"models/m": NOW, PINNED: NOW},
        )
    )
    assert made.actions == ()
    assert made.models["models/m"].application == made.models[PINNED].application == running.name
    both = plan(situation(OLD, views.pinned(OLD), last_activity={"models/m": NOW, PINNED: NOW}))
    assert len(both.actions) == 1


def test_application_that_a_pin_takes_over_is_kept() -> None:
    old = application(OLD)
    made = plan(
        situation(
            NEW,
            views.pinned(OLD),
            applications=(old, application(NEW)),
            serving={"models/m": old.name},
            last_activity={"models/m": NOW, PINNED: NOW},
        )
    )
    assert made.actions == ()
    assert made.models["models/m"].application == application_name(NEW)
    assert made.models[PINNED].application == old.name


def test_failed_pinned_revision_leaves_the_current_one_alone() -> None:
    current, failed = application(NEW), application(OLD, Phase.FAILED)
    failure = Failure(count=1, reason="SOURCE_NOT_FOUND", message="no", retry_at=NOW + 10)
    made = plan(
        situation(
            NEW,
            views.pinned(OLD),
            applications=(current, failed),
            serving={"models/m": current.name},
            last_activity={"models/m": NOW, PINNED: NOW},
            failures={failed.name: failure},
        )
    )
    assert made.models["models/m"].state is State.READY
    assert (made.models[PINNED].state, made.models[PINNED].reason) == (State.FAILED, "SOURCE_NOT_FOUND")
    assert made.actions == (Delete(failed.name),)


CANDIDATE = "models/m/revisions/2"


def test_warm_candidate_is_deployed_without_a_request() -> None:
    warm = plan(situation(views.with_candidate(OLD, NEW, 10)))
    assert [action.application for action in warm.actions] == [application_name(NEW)]
    assert (set(warm.models), warm.models[CANDIDATE].state) == ({CANDIDATE}, State.DEPLOYING)
    assert plan(situation(views.with_candidate(OLD, NEW, 10, warm=False))) == Plan(actions=(), models={})


def test_promoted_candidate_keeps_its_application_and_the_old_one_drains() -> None:
    old, new = application(OLD), application(NEW)
    rolling = situation(
        views.with_candidate(OLD, NEW, 50),
        applications=(old, new),
        serving={"models/m": old.name, CANDIDATE: new.name},
        last_activity={"models/m": NOW},
    )
    before = plan(rolling)
    assert before.actions == ()
    assert (before.models["models/m"].application, before.models[CANDIDATE].application) == (old.name, new.name)
    complete = replace(rolling, snapshot=views.snapshot(NEW))
    after = plan(complete)
    assert after.actions == ()  # no ingress replica has released the old one yet
    assert {name: model.application for name, model in after.models.items()} == {"models/m": new.name}
    left = replace(old, left_sequence=9)
    let_go = replace(complete, applications={old.name: left, new.name: new}, serving={"models/m": new.name})
    assert plan(let_go).actions == (Delete(old.name),)


def test_failed_candidate_leaves_the_stable_revision_alone_and_is_reported() -> None:
    old, failed = application(OLD), application(NEW, Phase.FAILED)
    failure = Failure(count=1, reason="OUT_OF_MEMORY", message="too big", retry_at=NOW + 10)
    made = plan(
        situation(
            views.with_candidate(OLD, NEW, 50),
            applications=(old, failed),
            serving={"models/m": old.name},
            last_activity={"models/m": NOW},
            failures={failed.name: failure},
        )
    )
    assert (made.models["models/m"].state, made.models["models/m"].application) == (State.READY, old.name)
    assert (made.models[CANDIDATE].state, made.models[CANDIDATE].reason) == (State.FAILED, "OUT_OF_MEMORY")
    assert made.actions == (Delete(failed.name),)
