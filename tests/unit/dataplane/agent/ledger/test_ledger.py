"""The ledger as a whole: restart, activations, cold starts, and queries that change nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest

from broadsheet.v1 import status_pb2
from dataplane.agent.desired import application_name
from dataplane.agent.ledger.ledger import Ledger
from dataplane.agent.ledger.reports import REPORT_LIFETIME_S, ReportUpdate
from dataplane.agent.serve_api import ServeState, ServeStatus
from dataplane.agent.situation import Phase
from dataplane.relay.messages import FirstByte, SleepOrder
from dataplane.snapshot.activation import Activation, ModelActivation, State
from dataplane.snapshot.snapshot import Snapshot
from tests import views
from tests.unit.dataplane.agent.ledger.reporting import (
    NOW,
    adopted,
    application,
    deployed,
    empty,
    engine,
    ingress,
    record,
    report_engines,
    report_ingresses,
    situation,
)

CATALOG = views.snapshot(views.model("m"))


def models(ledger: Ledger, now: float = NOW) -> dict[str, ModelActivation]:
    """An activation that sends requests of the model `m` to the application `app`."""
    running = application(ledger, now)
    return {"models/m": replace(views.ready(application="app"), endpoints=running.endpoints)}


def busy() -> Ledger:
    """A ledger with an application in use, one that was given up, and one that is deleted."""
    ledger = deployed()
    ledger.applications.taken_on("app", NOW)
    report_engines(ledger, {"app/r1": engine()})
    report_ingresses(ledger, {"i": ingress(in_flight=2, in_app=1, first_byte=FirstByte(replica_id="r1", seconds=3))})
    for name in ("failed", "deleted"):
        ledger.applications.deployed(record(name, model=f"models/{name}"))
        ledger.applications.taken_on(name, NOW)
    ledger.applications.failed("failed", reason="R", message="words", now=NOW)
    ledger.applications.deleted("deleted")
    ledger.planned(CATALOG, models(ledger), NOW)
    return ledger


# -- queries ---------------------------------------------------------------------------------------

QUERIES: dict[str, Callable[[Ledger, float], object]] = {
    "situation": lambda ledger, now: ledger.situation(CATALOG, now=now, time_of_day=now, free={}),
    "cold_starts": lambda ledger, now: ledger.cold_starts(),
    "names": lambda ledger, now: ledger.applications.names(),
    "state": lambda ledger, now: ledger.applications.state("app"),
    "missing_in": lambda ledger, now: ledger.applications.missing_in({}, now),
    "without_adapters_of": lambda ledger, now: ledger.applications.without_adapters_of(1),
    "is_settled": lambda ledger, now: ledger.applications.is_settled(),
    "any_asleep": lambda ledger, now: ledger.applications.any_asleep(),
    "engines": lambda ledger, now: ledger.applications.engines(now),
    "as_planned_from": lambda ledger, now: ledger.applications.as_planned_from({"app": 1}, now, 10),
    "failures": lambda ledger, now: ledger.failures.by_application(),
    "last_activity": lambda ledger, now: ledger.usage.last_activity(now),
    "in_flight": lambda ledger, now: ledger.usage.in_flight(now),
    "in_use": lambda ledger, now: ledger.usage.in_use(now),
    "ingress_sequence": lambda ledger, now: ledger.usage.ingress_sequence(now),
    "ingress_positions": lambda ledger, now: ledger.usage.ingress_positions(),
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
@pytest.mark.parametrize("make", [empty, adopted, deployed, busy])
def test_query_changes_nothing(make: Callable[[], Ledger], query: Callable[[Ledger, float], object]) -> None:
    ledger = make()
    before = copy.deepcopy(ledger)
    for now in (NOW, NOW + REPORT_LIFETIME_S, NOW + 1000):
        assert query(ledger, now) == query(ledger, now)
    assert ledger == before


def test_situation_does_not_change_with_the_ledger() -> None:
    ledger = busy()
    taken = situation(ledger)
    applications, in_flight = dict(taken.applications), dict(taken.in_flight)
    last_activity, failures, serving = dict(taken.last_activity), dict(taken.failures), dict(taken.serving)
    ledger.usage.requested("models/other", NOW)
    report_ingresses(ledger, {"i": ingress(in_flight=9, in_app=9)})
    report_engines(ledger, {"app/r2": engine(), "failed/r1": engine()})
    ledger.applications.deleted("app")
    ledger.applications.gone("deleted")
    ledger.planned(CATALOG, {}, NOW)
    assert (taken.applications, taken.in_flight) == (applications, in_flight)
    assert (taken.last_activity, taken.failures, taken.serving) == (last_activity, failures, serving)


# -- restart ---------------------------------------------------------------------------------------


def test_restarted_agent_adopts_what_an_earlier_one_left() -> None:
    earlier = busy()
    order = SleepOrder(4)
    ledger = empty()
    ledger.adopt([record()], {"app": order, "unknown": SleepOrder(9)}, earlier.activation, NOW + 50)
    assert application(ledger, NOW + 50).phase is Phase.STARTING
    assert ledger.activation is earlier.activation
    assert ledger.applications.sleep_ordered("app", asleep=True) == SleepOrder(5, asleep=True)
    assert situation(ledger, NOW + 50).serving == {"models/m": "app"}
    assert situation(ledger, NOW + 50).last_activity == {"models/m": NOW + 50}, "its idle time starts now"
    report_engines(ledger, {"app/r1": engine(reported_at=NOW + 50, sleep_order=order)}, NOW + 50)
    ready = application(ledger, NOW + 50)
    assert (ready.phase, ready.ready_at) == (Phase.RUNNING, NOW + 50)


def test_adopted_application_may_leave_the_activation_that_an_earlier_agent_made() -> None:
    earlier = busy()
    ledger = empty()
    ledger.adopt([record()], {}, earlier.activation, NOW)
    left = ledger.planned(CATALOG, {}, NOW)
    assert left is not None
    assert application(ledger).left_sequence == left.sequence == earlier.activation.sequence + 1


def test_activation_that_names_an_application_without_a_record_is_adopted() -> None:
    ledger = empty()
    activation = Activation(sequence=3, models={"models/m": views.ready("http://x", application="unknown")})
    ledger.adopt([record()], {}, activation, NOW)
    assert ledger.planned(CATALOG, {}, NOW) == Activation(sequence=4, models={})


# -- activations -----------------------------------------------------------------------------------


def test_activation_is_made_anew_only_when_it_differs() -> None:
    ledger = adopted()
    report_engines(ledger, {"app/r1": engine()})
    first = ledger.planned(CATALOG, models(ledger), NOW)
    assert first is not None
    assert (first.sequence, ledger.activation) == (1, first)
    assert ledger.planned(CATALOG, models(ledger), NOW) is None
    report_engines(ledger, {"app/r2": engine()})
    second = ledger.planned(CATALOG, models(ledger), NOW)
    assert second is not None
    assert second.sequence == 2


def test_countdown_of_a_backoff_alone_makes_no_activation() -> None:
    ledger = empty()

    def failed(retry_after_s: float) -> dict[str, ModelActivation]:
        return {"models/m": ModelActivation(state=State.FAILED, revision_number=1, retry_after_s=retry_after_s)}

    assert ledger.planned(CATALOG, failed(10), NOW) is not None
    assert ledger.planned(CATALOG, failed(9), NOW) is None
    assert ledger.planned(CATALOG, failed(0), NOW) is not None, "it is due now"


def test_application_leaves_the_activation_and_joins_it_again() -> None:
    ledger = adopted()
    report_engines(ledger, {"app/r1": engine()})
    ledger.planned(CATALOG, models(ledger), NOW)
    assert application(ledger).left_sequence == 0
    ledger.planned(CATALOG, {}, NOW + 1)
    assert (application(ledger).left_sequence, situation(ledger).serving) == (2, {})
    ledger.planned(CATALOG, models(ledger), NOW + 2)
    assert application(ledger).left_sequence == 0


def test_application_that_is_gone_leaves_the_activation_without_an_error() -> None:
    ledger = adopted()
    report_engines(ledger, {"app/r1": engine()})
    ledger.planned(CATALOG, models(ledger), NOW)
    ledger.applications.gone("app")
    assert ledger.planned(CATALOG, {}, NOW) == Activation(sequence=2, models={})


# -- what a plan makes obsolete --------------------------------------------------------------------


def test_activity_of_a_model_that_is_idle_is_forgotten_after_a_plan() -> None:
    ledger = adopted()
    ledger.usage.requested("models/idle", NOW)
    ledger.planned(CATALOG, models(ledger), NOW)
    assert set(situation(ledger).last_activity) == {"models/m"}


def test_failure_is_forgotten_when_nothing_asks_for_its_application_any_more() -> None:
    def with_failure(snapshot: Snapshot) -> Ledger:
        ledger = empty()
        (name,) = (application_name(entry) for entry in snapshot.deployable.values())
        ledger.applications.deployed(record(name))
        ledger.applications.failed(name, reason="R", message="", now=NOW)
        return ledger

    ledger = with_failure(CATALOG)
    ledger.planned(CATALOG, {}, NOW)
    assert len(situation(ledger).failures) == 1
    ledger.planned(views.snapshot(views.model("m", args={"start_up_s": 1}), views.pinned(views.model("m"))), {}, NOW)
    assert len(situation(ledger).failures) == 1, "a pinned revision asks for it"
    ledger.planned(views.snapshot(views.model("m", args={"start_up_s": 1})), {}, NOW)
    assert situation(ledger).failures == {}


# -- cold starts -----------------------------------------------------------------------------------


def cold_start(ledger: Ledger, now: float) -> status_pb2.ColdStart | None:
    ledger.planned(CATALOG, models(ledger, now), now)
    return ledger.cold_starts().get("models/m")


def test_start_from_zero_is_timed_by_its_first_replica() -> None:
    ledger = deployed()
    assert cold_start(ledger, NOW) is None, "it has not started yet"
    report_engines(ledger, {"app/r1": engine(reported_at=NOW + 40)}, NOW + 40)
    started = cold_start(ledger, NOW + 40)
    assert started is not None
    assert started.start.ToTimedelta().total_seconds() == 40
    assert started.engine_start.ToTimedelta().total_seconds() == 30.5
    assert started.weights_load.ToTimedelta().total_seconds() == 2.25
    assert started.ready_time.seconds == NOW + 40
    assert not started.HasField("first_token"), "no request has been answered"

    # Two ingress replicas held requests for this start, and a third remembers an earlier start.
    report_ingresses(
        ledger,
        {
            name: ingress(reported_at=NOW + 40, first_byte=FirstByte(replica_id=replica_id, seconds=seconds))
            for name, replica_id, seconds in (("i1", "r1", 41.0), ("i2", "r1", 43.5), ("i3", "r0", 99.0))
        },
        NOW + 40,
    )
    # A replica that joined later was no cold start.
    report_engines(ledger, {"app/r2": engine(reported_at=NOW + 40)}, NOW + 40)
    answered = cold_start(ledger, NOW + 40)
    assert answered is not None
    assert answered.first_token.ToTimedelta().total_seconds() == 43.5
    assert answered.start == started.start


def test_start_that_another_agent_began_is_not_timed() -> None:
    ledger = adopted()
    report_engines(ledger, {"app/r1": engine()})
    assert cold_start(ledger, NOW) is None


def test_cold_start_outlives_the_application_but_not_the_model() -> None:
    ledger = busy()
    assert set(ledger.cold_starts()) == {"models/m"}
    ledger.applications.deleted("app")
    ledger.applications.gone("app")
    ledger.planned(CATALOG, {}, NOW)
    assert set(ledger.cold_starts()) == {"models/m"}
    ledger.planned(views.snapshot(), {}, NOW)
    assert ledger.cold_starts() == {}


# -- restart of the relay --------------------------------------------------------------------------


def test_restart_of_the_relay_changes_nothing_for_an_application() -> None:
    ledger = adopted()
    report_engines(ledger, {"app/r1": engine()})
    before = application(ledger, NOW + 1)
    ledger.applications.engines_reported(ReportUpdate(epoch="second", is_complete=True, changed={}), NOW + 1)
    assert application(ledger, NOW + 1) == before
    ledger.applications.engines_reported(ReportUpdate(epoch="second", changed={}), NOW + REPORT_LIFETIME_S)
    assert application(ledger, NOW + REPORT_LIFETIME_S).endpoints == (), "the replica has not reported again"
    assert application(ledger, NOW + REPORT_LIFETIME_S).phase is Phase.RUNNING


def test_application_that_ray_serve_lists_is_not_missing() -> None:
    ledger = busy()
    listed = {name: ServeStatus(state=ServeState.RUNNING, message="") for name in ("app", "failed")}
    assert ledger.applications.missing_in(listed, NOW + 1) == ("deleted",)
