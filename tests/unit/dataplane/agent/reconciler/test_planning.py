"""The reconciler's rules, one by one, and then all of them at once in a simulated cluster."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.agent.reconciler.planning import (
    Application,
    Delete,
    Deploy,
    Failure,
    Phase,
    Plan,
    Rescale,
    Situation,
    Sleep,
    Wake,
    application_name,
    next_failure,
    plan,
    replica_bounds,
    resources_of,
)
from dataplane.snapshot.activation import Endpoint, ModelActivation, State
from dataplane.snapshot.snapshot import Message, Snapshot, model_of
from tests import views

NOW = 1_000_000.0
IDLE_S = 300


def entry(
    model_id: str = "m", *, number: int = 1, min_replicas: int = 0, args: Mapping[str, object] | None = None
) -> snapshot_pb2.ModelEntry:
    made = views.model(model_id, number=number, args=args)
    made.revision.spec.scaling.min_replicas = min_replicas
    made.revision.spec.scaling.downscale_to_zero_delay.seconds = IDLE_S
    made.revision.spec.admission.cold_start_timeout.seconds = 600
    return made


def application(of: snapshot_pb2.ModelEntry, phase: Phase = Phase.RUNNING, **changes: object) -> Application:
    name = application_name(of)
    running = phase is Phase.RUNNING
    made = Application(
        name=name,
        model=model_of(of.name),
        revision_number=of.revision.number,
        phase=phase,
        created_at=NOW - 1000,
        endpoints=(Endpoint(replica_id=f"{name}-r", url="http://127.0.0.1:1"),) if running else (),
        replica_bounds=replica_bounds(of.revision.spec.scaling),
        ready_at=NOW - 900 if running else None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # the tests' own keywords


def situation(*entries: Message, applications: tuple[Application, ...] = (), **changes: object) -> Situation:
    made = Situation(
        now=NOW,
        snapshot=views.snapshot(*entries),
        applications={one.name: one for one in applications},
        serving={},
        in_flight={},
        last_activity={},
        failures={},
        ingress_sequence=9,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # the tests' own keywords


def test_model_at_zero_that_nobody_asks_for_gets_nothing() -> None:
    assert plan(situation(entry())) == Plan(actions=(), models={})


def test_model_with_min_replicas_is_deployed_unasked() -> None:
    wanted = entry(min_replicas=1)
    made = plan(situation(wanted))
    assert made.actions == (Deploy(application_name(wanted), wanted),)
    assert made.models["models/m"].state is State.DEPLOYING


def test_woken_model_is_deployed() -> None:
    made = plan(situation(entry(), last_activity={"models/m": NOW}))
    assert made.actions == (Deploy(application_name(entry()), entry()),)


def test_held_request_alone_is_reason_enough_to_deploy() -> None:
    made = plan(situation(entry(), in_flight={"models/m": 1}))
    assert made.actions == (Deploy(application_name(entry()), entry()),)


def test_starting_application_is_not_deployed_again() -> None:
    starting = application(entry(), Phase.STARTING, message="waits for a GPU")
    made = plan(situation(entry(), applications=(starting,), last_activity={"models/m": NOW}))
    assert made.actions == ()
    assert made.models["models/m"].state is State.DEPLOYING
    assert made.models["models/m"].message == "waits for a GPU"


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


def test_card_change_keeps_the_application_and_answers_as_the_new_revision() -> None:
    changed = entry(number=2)
    changed.revision.card.description = "new words"
    made = plan(situation(changed, applications=(application(entry()),), last_activity={"models/m": NOW}))
    assert made.actions == ()
    assert made.models["models/m"].revision_number == 2


def test_scaling_change_is_put_upon_the_application_that_runs() -> None:
    changed = entry(number=2)
    changed.revision.spec.scaling.max_replicas = 4
    for phase in (Phase.STARTING, Phase.RUNNING):
        at_first = situation(changed, applications=(application(entry(), phase),), last_activity={"models/m": NOW})
        (rescale,) = plan(at_first).actions
        assert rescale == Rescale(application_name(entry()), changed)
        scaled = replace(at_first, applications={rescale.application: application(changed, phase)})
        assert plan(scaled).actions == ()


def test_what_scaling_says_about_zero_is_not_put_upon_the_application() -> None:
    changed = entry(number=2, min_replicas=1)
    changed.revision.spec.scaling.downscale_to_zero_delay.seconds = 1
    made = plan(situation(changed, applications=(application(entry()),), last_activity={"models/m": NOW}))
    assert made.actions == ()


def test_changed_model_in_use_gets_the_new_application_beside_the_old_one() -> None:
    old, new = application(entry()), entry(number=2, args={"tokens_per_second": 5})
    made = plan(situation(new, applications=(old,), serving={"models/m": old.name}, last_activity={"models/m": NOW}))
    assert made.actions == (Deploy(application_name(new), new),)
    assert (made.models["models/m"].application, made.models["models/m"].revision_number) == (old.name, 1)
    assert made.models["models/m"].state is State.READY


def test_route_moves_when_the_new_application_answers_and_the_old_one_stays_until_let_go() -> None:
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


def test_new_revision_that_fails_leaves_the_old_one_serving_and_says_so() -> None:
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


def failed_situation(*, retry_in_s: float, **changes: object) -> Situation:
    failure = Failure(count=1, reason="SOURCE_NOT_FOUND", message="nothing there", retry_at=NOW + retry_in_s)
    made = situation(entry(), failures={application_name(entry()): failure})
    return replace(made, **changes)  # type: ignore[arg-type]  # the tests' own keywords


def test_failed_model_says_why_and_waits() -> None:
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


def test_failed_model_goes_on_saying_why_while_it_is_tried_again() -> None:
    again = application(entry(), Phase.STARTING)
    made = plan(failed_situation(retry_in_s=-1, last_activity={"models/m": NOW}, applications={again.name: again}))
    assert made.actions == ()
    assert (made.models["models/m"].state, made.models["models/m"].reason) == (State.FAILED, "SOURCE_NOT_FOUND")


def test_failed_model_that_nobody_asks_for_any_more_still_says_why() -> None:
    made = plan(failed_situation(retry_in_s=-1, last_activity={"models/m": NOW - 2 * IDLE_S}))
    assert made.actions == ()
    assert made.models["models/m"].state is State.FAILED


def test_failure_of_an_earlier_spec_does_not_hold_back_the_next() -> None:
    fixed = entry(number=2, args={"start_up_s": 0})
    made = plan(failed_situation(retry_in_s=10, last_activity={"models/m": NOW}, snapshot=views.snapshot(fixed)))
    assert made.actions == (Deploy(application_name(fixed), fixed),)


def test_idle_model_leaves_the_activation_first_and_goes_after_that() -> None:
    running = application(entry(), ready_at=NOW - 2 * IDLE_S)
    idle = situation(
        entry(), applications=(running,), serving={"models/m": running.name}, last_activity={"models/m": NOW - IDLE_S}
    )
    assert plan(idle) == Plan(actions=(), models={})
    left = replace(idle, serving={}, applications={running.name: replace(running, left_sequence=9)})
    assert plan(left) == Plan(actions=(Delete(running.name),), models={})


def test_model_is_not_idle_before_its_delay_is_over_since_it_became_ready() -> None:
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


def test_idle_model_that_is_asked_for_before_it_went_goes_on() -> None:
    running = application(entry(), left_sequence=9)
    made = plan(situation(entry(), applications=(running,), last_activity={"models/m": NOW}))
    assert made.actions == ()
    assert made.models["models/m"].state is State.READY


def test_deleted_model_goes_when_it_is_let_go() -> None:
    orphan = application(entry())
    assert plan(situation(applications=(replace(orphan, in_use=1),))).actions == ()
    assert plan(situation(applications=(orphan,))).actions == (Delete(orphan.name),)


def test_application_is_deleted_once() -> None:
    assert plan(situation(applications=(application(entry(), Phase.DELETING, endpoints=()),))).actions == ()


def test_application_that_is_going_is_deployed_again_only_when_it_is_gone() -> None:
    going = application(entry(), Phase.DELETING, endpoints=())
    made = plan(situation(entry(), applications=(going,), last_activity={"models/m": NOW}))
    assert made.actions == ()
    assert made.models["models/m"].state is State.DEPLOYING


def test_without_an_ingress_nothing_holds_an_application() -> None:
    orphan = application(entry(), left_sequence=10)
    assert plan(situation(applications=(orphan,), ingress_sequence=None)).actions == (Delete(orphan.name),)


def test_one_failed_model_does_not_touch_another() -> None:
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


def test_name_of_an_application_changes_only_with_what_needs_new_replicas() -> None:
    base = application_name(entry())

    def after(change: str) -> str:
        changed = copy.deepcopy(entry())
        exec(change, {"entry": changed})  # noqa: S102
        return application_name(changed)

    spec = "entry.revision.spec."
    for harmless in (
        "entry.served_name = 'x'",
        "entry.labels['a'] = 'b'",
        "entry.revision.number = 7",
        "entry.revision.card.description = 'x'",
        f"{spec}admission.max_ongoing_requests = 3",
        f"{spec}scaling.downscale_to_zero_delay.seconds = 1",
        f"{spec}scaling.min_replicas = 2",
        f"{spec}scaling.max_replicas = 4",
    ):
        assert after(harmless) == base, harmless
    for restart in (
        "entry.uid = 'another'",
        f"{spec}source.uri = 'file:///x'",
        f"{spec}engine.args['a'] = 1",
        f"{spec}resources.cpus = 2",
        f"{spec}lora.max_rank = 8",
        f"{spec}scaling.idle = 2",
    ):
        assert after(restart) != base, restart


def test_backoff_doubles_up_to_its_maximum() -> None:
    def after(previous: Failure | None) -> Failure:
        return next_failure(previous, reason="R", message="", now=NOW, backoff_s=10, backoff_max_s=100)

    failure, waits = after(None), []
    for _ in range(6):
        waits.append(failure.retry_at - NOW)
        failure = after(failure)
    assert waits == [10, 20, 40, 80, 100, 100]
    assert after(replace(failure, count=10**6)).retry_at == NOW + 100


# -- revisions that routes pin ---------------------------------------------------------------------

OLD, NEW = entry(number=1), entry(number=2, args={"start_up_s": 1})
PINNED = "models/m/revisions/1"


def test_a_pinned_revision_is_deployed_beside_the_current_one_when_it_is_asked_for() -> None:
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


def test_a_pinned_revision_at_zero_that_nobody_asks_for_gets_nothing() -> None:
    assert plan(situation(NEW, views.pinned(OLD))) == Plan(actions=(), models={})


def test_a_pin_of_the_current_revision_shares_its_application() -> None:
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


def test_an_application_that_a_pin_takes_over_from_the_current_revision_goes_on() -> None:
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


def test_a_revision_that_is_not_pinned_any_more_goes_when_it_is_let_go() -> None:
    old, new = application(OLD, left_sequence=9), application(NEW)
    serving = {"models/m": new.name}
    active = {"models/m": NOW}
    made = plan(situation(NEW, applications=(old, new), serving=serving, last_activity=active))
    assert made.actions == (Delete(old.name),)
    busy = replace(old, in_use=1)
    assert plan(situation(NEW, applications=(busy, new), serving=serving, last_activity=active)).actions == ()


def test_a_pinned_revision_that_fails_leaves_the_current_one_alone() -> None:
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


def test_the_scaling_of_the_model_counts_where_a_pin_shares_its_application() -> None:
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


# -- models that are kept warm ---------------------------------------------------------------------


def warmed(until: float, of: snapshot_pb2.ModelEntry | None = None) -> snapshot_pb2.ModelEntry:
    made = copy.deepcopy(of if of is not None else entry())
    made.warm_until.FromNanoseconds(round(until * 1e9))
    return made


def test_warmed_model_is_deployed_unasked_in_the_application_that_a_request_would_make() -> None:
    warm = warmed(NOW + 0.5)
    assert plan(situation(warm)).actions == (Deploy(application_name(entry()), warm),)
    assert plan(situation(warmed(NOW))) == Plan(actions=(), models={})


def test_warmed_model_stays_up_and_then_idles_away_as_any_other() -> None:
    running = application(entry(), ready_at=NOW - 2 * IDLE_S, left_sequence=9)
    assert plan(situation(warmed(NOW + 1), applications=(running,))).models["models/m"].state is State.READY
    assert plan(situation(warmed(NOW), applications=(running,))) == Plan(actions=(Delete(running.name),), models={})
    asked = situation(warmed(NOW), applications=(running,), last_activity={"models/m": NOW - IDLE_S + 1})
    assert plan(asked).models["models/m"].state is State.READY
    young = replace(running, ready_at=NOW - IDLE_S + 1)
    assert plan(situation(warmed(NOW), applications=(young,))).models["models/m"].state is State.READY


def test_warmed_model_that_fails_is_tried_again_while_it_is_wanted_and_goes_on_saying_why() -> None:
    failing = failed_situation(retry_in_s=-1)
    wanted = plan(replace(failing, snapshot=views.snapshot(warmed(NOW + 1))))
    assert [action.application for action in wanted.actions] == [application_name(entry())]
    over = plan(replace(failing, snapshot=views.snapshot(warmed(NOW - 1))))
    assert over.actions == ()
    for made in (wanted, over):
        activation = made.models["models/m"]
        assert (activation.state, activation.reason) == (State.FAILED, "SOURCE_NOT_FOUND")


def test_warming_is_of_the_model_and_not_of_its_pinned_revisions() -> None:
    made = plan(situation(warmed(NOW + 1, NEW), views.pinned(OLD)))
    assert set(made.models) == {"models/m"}


# -- replacing without make before break -----------------------------------------------------------


def cold(of: snapshot_pb2.ModelEntry) -> snapshot_pb2.ModelEntry:
    made = copy.deepcopy(of)
    made.replace_cold = True
    return made


def test_cold_replacement_moves_at_once_and_the_old_application_goes_when_it_is_let_go() -> None:
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


def test_cold_replacement_that_fails_has_no_old_one_to_go_on() -> None:
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


def test_cold_replacement_of_what_needs_no_new_replicas_keeps_the_application() -> None:
    running = application(OLD)
    changed = cold(OLD)
    changed.revision.number = 2
    made = plan(situation(changed, applications=(running,), last_activity={"models/m": NOW}))
    assert (made.actions, made.models["models/m"].state) == ((), State.READY)


# -- revisions that are being rolled out -----------------------------------------------------------

CANDIDATE = "models/m/revisions/2"


def test_a_candidate_is_started_before_it_is_asked_for_where_that_is_wanted() -> None:
    warm = plan(situation(views.with_candidate(OLD, NEW, 10)))
    assert [action.application for action in warm.actions] == [application_name(NEW)]
    assert (set(warm.models), warm.models[CANDIDATE].state) == ({CANDIDATE}, State.DEPLOYING)
    assert plan(situation(views.with_candidate(OLD, NEW, 10, warm=False))) == Plan(actions=(), models={})


def test_a_candidate_that_takes_over_keeps_its_application_and_the_old_one_drains() -> None:
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
    assert after.actions == ()  # nobody has let go of the old one yet
    assert {name: model.application for name, model in after.models.items()} == {"models/m": new.name}
    left = replace(old, left_sequence=9)
    let_go = replace(complete, applications={old.name: left, new.name: new}, serving={"models/m": new.name})
    assert plan(let_go).actions == (Delete(old.name),)


def test_a_candidate_that_fails_leaves_the_stable_revision_alone_and_says_so() -> None:
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


# -- sleep -----------------------------------------------------------------------------------------


def sleeper(model_id: str = "m", *, gpus: int = 1) -> snapshot_pb2.ModelEntry:
    made = entry(model_id)
    made.revision.spec.scaling.idle = model_pb2.Scaling.IDLE_SLEEP
    made.revision.spec.resources.accelerators = gpus
    return made


def asleep(of: snapshot_pb2.ModelEntry, phase: Phase = Phase.RUNNING) -> Application:
    return application(of, phase, endpoints=(), asleep=True, all_asleep=True, resources=resources_of(of.revision.spec))


def test_an_idle_sleeper_is_put_to_sleep_when_every_ingress_has_let_go_of_it() -> None:
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


def test_a_sleeper_stays_and_says_so() -> None:
    made = plan(situation(sleeper(), applications=(asleep(sleeper()),)))
    assert made.actions == ()
    assert (made.models["models/m"].state, made.models["models/m"].reason) == (State.IDLE, "ASLEEP")
    falling_asleep = replace(asleep(sleeper()), all_asleep=False)
    assert plan(situation(sleeper(), applications=(falling_asleep,))).models["models/m"].reason == ""


def test_a_sleeper_that_is_asked_for_is_woken_and_its_requests_wait() -> None:
    made = plan(situation(sleeper(), applications=(asleep(sleeper()),), last_activity={"models/m": NOW}))
    assert made.actions == (Wake(application_name(sleeper())),)
    assert made.models["models/m"].state is State.DEPLOYING


def test_a_model_that_has_not_run_does_not_sleep() -> None:
    assert plan(situation(sleeper())) == Plan(actions=(), models={})
    starting = application(sleeper(), Phase.STARTING)
    assert plan(situation(sleeper(), applications=(starting,))).actions == (Delete(starting.name),)


def test_a_sleeper_that_a_pin_uses_stays_awake() -> None:
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


def test_a_sleeper_of_another_spec_goes() -> None:
    changed = sleeper()
    changed.revision.spec.engine.args["start_up_s"] = 1
    old = asleep(sleeper())
    assert plan(situation(changed, applications=(old,))).actions == (Delete(old.name),)


def test_the_longest_unused_sleeper_gives_way_to_a_model_that_is_made() -> None:
    old, young, wanted = sleeper("old"), sleeper("young"), sleeper("wanted")
    full = situation(
        *(old, young, wanted),
        applications=(asleep(old), asleep(young)),
        last_activity={"models/old": NOW - 9000, "models/young": NOW - 8000, "models/wanted": NOW},
        free={"CPU": 4.0},
    )
    assert plan(full).actions == (Delete(application_name(old)), Deploy(application_name(wanted), wanted))
    roomy = replace(full, free={"CPU": 4.0, "GPU": 1.0})
    assert plan(roomy).actions == (Deploy(application_name(wanted), wanted),)
    going = {one.name: one for one in (asleep(old, Phase.DELETING), asleep(young))}
    assert plan(replace(full, applications=going)).actions == (Deploy(application_name(wanted), wanted),)


def test_a_sleeper_gives_way_to_an_application_that_finds_no_room() -> None:
    old, wanted = sleeper("old"), sleeper("wanted")
    needs = resources_of(wanted.revision.spec)
    waits = application(wanted, Phase.STARTING, placed=False, created_at=NOW - 30, resources=needs)
    full = situation(
        *(old, wanted), applications=(asleep(old), waits), last_activity={"models/wanted": NOW}, free={"CPU": 4.0}
    )
    assert plan(full).actions == (Delete(application_name(old)),)
    for other in (replace(waits, placed=True), replace(waits, created_at=NOW - 5)):
        assert plan(replace(full, applications={**full.applications, waits.name: other})).actions == ()


# -- all at once -----------------------------------------------------------------------------------


@dataclass
class SimulatedApplication:
    entry: snapshot_pb2.ModelEntry
    created_at: float
    ready_at: float | None = None
    failed: bool = False
    deleting: bool = False
    left_sequence: int = 0
    requests: int = 0
    asleep: bool = False
    bounds: bytes = b""


@dataclass
class SimulatedIngress:
    sequence: int = 0
    models: Mapping[str, ModelActivation] = field(default_factory=dict)


class ClusterMachine(RuleBasedStateMachine):
    """A cluster that carries out plans in every order: two ingress replicas, two models with two
    specs each, either of which may be pinned.

    No drain is ever overdue here, so nothing excuses the loss of a request.
    """

    @initialize()
    def start(self) -> None:
        self.now = NOW
        self.entries = {name: entry(name) for name in ("a", "b")}
        self.pins: dict[str, snapshot_pb2.ModelRevisionEntry] = {}
        self.applications: dict[str, SimulatedApplication] = {}
        self.failures: dict[str, Failure] = {}
        self.last_activity: dict[str, float] = {}
        self.sequence = 0
        self.models: Mapping[str, ModelActivation] = {}
        self.ingresses = [SimulatedIngress(), SimulatedIngress()]
        self.planned_at = 0.0
        self.warm_at_plan: set[str] = set()

    def snapshot(self) -> Snapshot:
        pins = (pin for pin in self.pins.values() if pin.model.removeprefix("models/") in self.entries)
        return views.snapshot(*self.entries.values(), *pins)

    @rule(
        model=st.sampled_from("ab"),
        spec=st.integers(0, 1),
        number=st.integers(1, 9),
        max_replicas=st.integers(1, 2),
        sleeps=st.booleans(),
    )
    def register(self, model: str, spec: int, number: int, max_replicas: int, sleeps: bool) -> None:
        self.entries[model] = entry(model, number=number, args={"start_up_s": spec})
        scaling = self.entries[model].revision.spec.scaling
        scaling.max_replicas = max_replicas
        scaling.idle = model_pb2.Scaling.IDLE_SLEEP if sleeps else model_pb2.Scaling.IDLE_UNSPECIFIED

    @rule(model=st.sampled_from("ab"), spec=st.integers(0, 1), pins=st.booleans())
    def pin(self, model: str, spec: int, pins: bool) -> None:
        pin = views.pinned(entry(model, number=spec + 1, args={"start_up_s": spec}))
        if pins:
            self.pins[pin.name] = pin
        else:
            self.pins.pop(pin.name, None)

    @rule(model=st.sampled_from("ab"), seconds=st.sampled_from([0, 10, 2 * IDLE_S]))
    def warm(self, model: str, seconds: int) -> None:
        if model in self.entries:
            self.entries[model] = warmed(self.now + seconds, self.entries[model])

    @rule(model=st.sampled_from("ab"), is_cold=st.booleans())
    def set_policy(self, model: str, is_cold: bool) -> None:
        if model in self.entries:
            self.entries[model] = copy.deepcopy(self.entries[model])
            self.entries[model].replace_cold = is_cold

    @rule(model=st.sampled_from("ab"))
    def delete(self, model: str) -> None:
        self.entries.pop(model, None)

    @rule(name=st.sampled_from(["a", "b", "a/revisions/1", "b/revisions/2"]), ingress=st.integers(0, 1))
    def request(self, name: str, ingress: int) -> None:
        self.last_activity[f"models/{name}"] = self.now
        activation = self.ingresses[ingress].models.get(f"models/{name}")
        if activation is not None and activation.endpoints:
            assert not self.applications[activation.application].asleep, "asked while it sleeps"
            self.applications[activation.application].requests += 1

    @rule(index=st.integers(0, 9))
    def request_ends(self, index: int) -> None:
        busy = [one for one in self.applications.values() if one.requests]
        if busy:
            busy[index % len(busy)].requests -= 1

    @rule(index=st.integers(0, 9), fails=st.booleans())
    def start_ends(self, index: int, fails: bool) -> None:
        starting = [
            (name, one)
            for name, one in self.applications.items()
            if one.ready_at is None and not one.failed and not one.deleting
        ]
        if starting:
            name, one = starting[index % len(starting)]
            if fails:
                one.failed = True
                self.failures[name] = next_failure(
                    self.failures.get(name), reason="R", message="", now=self.now, backoff_s=10, backoff_max_s=100
                )
            else:
                one.ready_at = self.now
                self.failures.pop(name, None)

    @rule()
    def deletions_end(self) -> None:
        self.applications = {name: one for name, one in self.applications.items() if not one.deleting}

    @rule(index=st.integers(0, 1))
    def ingress_swaps(self, index: int) -> None:
        self.ingresses[index] = SimulatedIngress(self.sequence, self.models)

    @rule(seconds=st.sampled_from([1, 20, IDLE_S + 1]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def reconcile(self) -> None:
        made = plan(
            Situation(
                now=self.now,
                snapshot=self.snapshot(),
                applications={name: self._observed(name, one) for name, one in self.applications.items()},
                serving={name: model.application for name, model in self.models.items() if model.endpoints},
                in_flight={},
                last_activity=self.last_activity,
                failures=self.failures,
                ingress_sequence=min(ingress.sequence for ingress in self.ingresses),
            )
        )
        if made.models != self.models:
            self._publish(made.models)
        self.planned_at = self.now
        self.warm_at_plan = {one.name for one in self.entries.values() if self.now < one.warm_until.seconds}
        for action in made.actions:
            if isinstance(action, Deploy):
                assert action.application not in self.applications, "deployed while it is there"
                self.applications[action.application] = SimulatedApplication(action.entry, self.now)
                self.applications[action.application].bounds = replica_bounds(action.entry.revision.spec.scaling)
            elif isinstance(action, Rescale):
                assert not self.applications[action.application].deleting, "scaled while it goes"
                self.applications[action.application].bounds = replica_bounds(action.entry.revision.spec.scaling)
            elif isinstance(action, Wake):
                self.applications[action.application].asleep = False
            else:
                one = self.applications[action.application]
                assert one.requests == 0, f"{action} with a request in it"
                one.asleep = one.asleep or isinstance(action, Sleep)
                one.deleting = isinstance(action, Delete)

    def _publish(self, models: Mapping[str, ModelActivation]) -> None:
        self.sequence += 1
        before = {model.application for model in self.models.values() if model.endpoints}
        after = {model.application for model in models.values() if model.endpoints}
        for name in before - after:
            self.applications[name].left_sequence = self.sequence
        for name in after - before:
            self.applications[name].left_sequence = 0
        self.models = models

    def _observed(self, name: str, one: SimulatedApplication) -> Application:
        if one.deleting:
            phase = Phase.DELETING
        elif one.failed:
            phase = Phase.FAILED
        else:
            phase = Phase.STARTING if one.ready_at is None else Phase.RUNNING
        return Application(
            name=name,
            model=model_of(one.entry.name),
            revision_number=one.entry.revision.number,
            phase=phase,
            created_at=one.created_at,
            endpoints=(Endpoint(replica_id=name, url="http://x"),) if phase is Phase.RUNNING and not one.asleep else (),
            ready_at=one.ready_at,
            asleep=one.asleep,
            replica_bounds=one.bounds,
            in_use=one.requests,
            left_sequence=one.left_sequence,
        )

    @invariant()
    def no_ingress_sends_requests_to_what_is_going(self) -> None:
        for ingress in self.ingresses:
            for activation in ingress.models.values():
                if activation.endpoints:
                    assert activation.application in self.applications
                    assert not self.applications[activation.application].deleting
                    assert not self.applications[activation.application].asleep

    @invariant()
    def what_is_warmed_is_there_after_a_plan(self) -> None:
        if self.planned_at == self.now:
            for name in self.warm_at_plan:
                assert self.models[name].state in (State.DEPLOYING, State.READY, State.DEGRADED, State.FAILED)

    def teardown(self) -> None:
        """Left alone, everything that is in use comes to answer, and everything else goes."""
        wanted = self.snapshot().deployable
        for name in wanted:
            self.last_activity[name] = self.now
        for _ in range(12):
            self.now += 10
            self.reconcile()
            for index in range(2):
                self.ingress_swaps(index)
            for one in self.applications.values():
                one.requests = 0
                if one.ready_at is None and not one.failed and not one.deleting:
                    one.ready_at = self.now
            self.deletions_end()
        assert self.applications.keys() == {application_name(one) for one in wanted.values()}
        assert {name: model.state for name, model in self.models.items()} == dict.fromkeys(wanted, State.READY)
        for current in self.entries.values():
            bounds = self.applications[application_name(current)].bounds
            assert bounds == replica_bounds(current.revision.spec.scaling)


TestCluster = ClusterMachine.TestCase
TestCluster.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
