"""The events of applications: deployed, taken on, ready, failed, left, gone."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from dataplane.agent.ledger.application import TAKEN_ON_S, ApplicationState
from dataplane.agent.ledger.ledger import Ledger
from dataplane.agent.ledger.lifecycle import IllegalTransition, Stage
from dataplane.agent.ledger.reports import REPORT_LIFETIME_S
from dataplane.agent.serve_api import ServeState, ServeStatus
from dataplane.agent.situation import Phase
from dataplane.relay.messages import SleepOrder
from tests.unit.dataplane.agent.ledger.reporting import (
    DRAIN_S,
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

STARTS = {"app": ServeStatus(state=ServeState.STARTING, message="waits for a GPU")}
FAILS = {"app": ServeStatus(state=ServeState.FAILED, message="words", reason="OUT_OF_MEMORY")}


def state(ledger: Ledger) -> ApplicationState:
    found = ledger.applications.state("app")
    assert found is not None
    return found


def was_taken_on(ledger: Ledger, asked_at: float) -> bool:
    return ledger.applications.missing_in({}, asked_at) == ("app",)


# -- deployed, taken on ----------------------------------------------------------------------------


def test_deployed_application_starts() -> None:
    ledger = deployed()
    assert (state(ledger).stage, application(ledger).phase) == (Stage.REQUESTED, Phase.STARTING)
    ledger.applications.taken_on("app", NOW + 1)
    assert (state(ledger).stage, application(ledger).phase) == (Stage.STARTING, Phase.STARTING)


def test_application_is_deployed_once() -> None:
    ledger = deployed()
    before = copy.deepcopy(ledger)
    with pytest.raises(IllegalTransition, match="app: DEPLOYED is not possible while it is REQUESTED"):
        ledger.applications.deployed(record())
    assert ledger == before, "an illegal step changes nothing"


def test_application_that_is_not_known_cannot_be_deleted_or_taken_on() -> None:
    ledger = empty()
    with pytest.raises(IllegalTransition, match="while it is ABSENT"):
        ledger.applications.deleted("app")
    with pytest.raises(IllegalTransition, match="while it is ABSENT"):
        ledger.applications.taken_on("app", NOW)
    assert ledger == empty()


def test_answer_of_ray_serve_counts_once_it_has_taken_the_application_on() -> None:
    ledger = deployed(created_at=NOW - 100)
    assert not was_taken_on(ledger, NOW), "the call that deploys it is still under way, however long that takes"
    ledger.applications.taken_on("app", NOW)
    assert not was_taken_on(ledger, NOW - 1), "Ray Serve was asked before"
    assert was_taken_on(ledger, NOW + 1)


def test_replica_that_answers_before_the_call_returns_makes_the_application_ready() -> None:
    ledger = deployed()
    report_engines(ledger, {"app/r1": engine()})
    assert not was_taken_on(ledger, NOW + 1)
    ledger.applications.taken_on("app", NOW + 1)
    assert application(ledger).phase is Phase.RUNNING
    assert was_taken_on(ledger, NOW + 2)


def test_application_of_an_earlier_agent_has_time_to_appear() -> None:
    ledger = empty()
    ledger.adopt([record()], {}, None, NOW)
    assert not was_taken_on(ledger, NOW + TAKEN_ON_S)
    assert was_taken_on(ledger, NOW + TAKEN_ON_S + 1)


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_application_of_an_agent_whose_clock_differs_counts_from_its_adoption(ahead_s: float) -> None:
    ledger = empty()
    ledger.adopt([record(created_at=NOW + ahead_s)], {}, None, NOW)
    assert application(ledger).created_at == NOW
    assert not was_taken_on(ledger, NOW + TAKEN_ON_S)
    assert was_taken_on(ledger, NOW + TAKEN_ON_S + 1)


def test_deleted_application_had_been_taken_on() -> None:
    ledger = deployed()
    ledger.applications.taken_on("app", NOW + 5)
    ledger.applications.deleted("app")
    assert was_taken_on(ledger, NOW)


# -- ready -----------------------------------------------------------------------------------------


def test_application_starts_answers_and_stays_running_without_a_replica() -> None:
    ledger = adopted()
    assert application(ledger).phase is Phase.STARTING
    report_engines(ledger, {"app/r1": engine()})
    running = application(ledger)
    assert (running.phase, running.ready_at, [endpoint.replica_id for endpoint in running.endpoints]) == (
        Phase.RUNNING,
        NOW,
        ["r1"],
    )
    report_engines(ledger, {}, removed=frozenset({"app/r1"}))
    later = application(ledger, NOW + 5)
    assert (later.phase, later.ready_at, later.endpoints) == (Phase.RUNNING, NOW, ())


def test_second_replica_does_not_change_when_the_application_became_ready() -> None:
    ledger = deployed()
    report_engines(ledger, {"app/r1": engine()})
    report_engines(ledger, {"app/r2": engine(reported_at=NOW + 5)}, NOW + 5)
    assert application(ledger, NOW + 5).ready_at == NOW
    assert len(application(ledger, NOW + 5).endpoints) == 2


def test_a_replica_is_one_endpoint_with_all_its_front_ends() -> None:
    ledger = deployed()
    several = replace(engine("http://127.0.0.1:1"), further_urls=("http://127.0.0.1:2", "http://127.0.0.1:3"))
    report_engines(ledger, {"app/r1": several})
    (endpoint,) = application(ledger).endpoints
    assert endpoint.urls == ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3")


def test_report_that_is_not_renewed_is_no_endpoint() -> None:
    ledger = adopted()
    report_engines(ledger, {"app/r1": engine()})
    assert application(ledger).phase is Phase.RUNNING
    assert application(ledger, NOW + REPORT_LIFETIME_S).endpoints == ()


def test_late_report_of_a_replica_does_not_bring_an_application_back() -> None:
    ledger = empty()
    report_engines(ledger, {"app/r1": engine()})
    assert ledger.applications.names() == frozenset()


def test_replica_is_no_endpoint_until_it_has_followed_its_latest_order() -> None:
    sleep, wake = SleepOrder(1, asleep=True), SleepOrder(2)
    ledger = adopted(sleep_order=sleep)
    report_engines(ledger, {"app/r1": engine()})
    before = application(ledger)
    assert (before.phase, before.asleep, before.all_asleep, before.endpoints) == (Phase.RUNNING, True, False, ())
    report_engines(ledger, {"app/r1": engine(sleep_order=sleep)})
    sleeps = application(ledger)
    assert (sleeps.all_asleep, sleeps.endpoints) == (True, ())
    assert ledger.applications.sleep_ordered("app", asleep=False) == wake
    waking = application(ledger)
    assert (waking.asleep, waking.endpoints) == (False, ())
    report_engines(ledger, {"app/r1": engine(sleep_order=wake)})
    assert len(application(ledger).endpoints) == 1


def test_application_is_placed_when_a_replica_has_begun_to_start() -> None:
    ledger = adopted()
    assert not application(ledger).placed
    changed = ledger.applications.placed("app")
    assert changed is not None
    assert changed.placed, "the record remembers it for the next agent"
    assert application(ledger).placed
    assert ledger.applications.placed("app") is None, "there is nothing to write again"
    assert ledger.applications.placed("other") is None


# -- failed ----------------------------------------------------------------------------------------


def test_start_failure_gives_an_application_up_only_before_its_first_answer() -> None:
    ledger = adopted()
    assert ledger.applications.failed("app", reason="R", message="words", now=NOW)
    failed = application(ledger)
    assert (failed.phase, failed.reason, failed.message) == (Phase.FAILED, "R", "words")
    assert situation(ledger).failures["app"].retry_at == NOW + 10

    healed = adopted()
    report_engines(healed, {"app/r2": engine()})
    assert not healed.applications.failed("app", reason="R", message="words", now=NOW)
    assert application(healed).phase is Phase.RUNNING
    assert situation(healed).failures == {}


def test_first_failure_of_a_start_counts_and_those_of_its_other_replicas_do_not() -> None:
    ledger = deployed()
    assert ledger.applications.failed("app", reason="FIRST", message="", now=NOW)
    assert not ledger.applications.failed("app", reason="SECOND", message="", now=NOW + 1)
    ledger.applications.taken_on("app", NOW + 1)
    ledger.applications.deleted("app")
    assert not ledger.applications.failed("app", reason="THIRD", message="", now=NOW + 2)
    failure = situation(ledger).failures["app"]
    assert (failure.count, failure.reason, failure.retry_at) == (1, "FIRST", NOW + 10)


def test_failures_in_a_row_double_the_wait_until_the_application_answers() -> None:
    ledger = empty()
    for count, wait_s in ((1, 10), (2, 20), (3, 40)):
        ledger.applications.deployed(record())
        ledger.applications.taken_on("app", NOW)
        ledger.applications.failed("app", reason="R", message="", now=NOW)
        failure = situation(ledger).failures["app"]
        assert (failure.count, failure.retry_at) == (count, NOW + wait_s)
        ledger.applications.deleted("app")
        ledger.applications.gone("app")
    ledger.applications.deployed(record())
    assert situation(ledger).failures["app"].count == 3, "it has not answered yet"
    report_engines(ledger, {"app/r1": engine()})
    assert situation(ledger).failures == {}


def test_application_that_answers_after_its_failure_runs() -> None:
    ledger = adopted()
    ledger.applications.failed("app", reason="R", message="words", now=NOW)
    report_engines(ledger, {"app/r1": engine()})
    healed = application(ledger)
    assert (healed.phase, healed.reason, situation(ledger).failures) == (Phase.RUNNING, "", {})


def test_failed_deployment_in_ray_serve_gives_the_application_up() -> None:
    ledger = deployed()
    assert ledger.applications.serve_reported(FAILS, NOW + 1, NOW + 1) == (), "it has not taken it on"
    ledger.applications.taken_on("app", NOW + 2)
    assert ledger.applications.serve_reported(FAILS, NOW + 3, NOW + 4) == ("app",)
    assert ledger.applications.serve_reported(FAILS, NOW + 5, NOW + 6) == (), "it is given up once"
    failed = application(ledger)
    assert (failed.phase, failed.reason, failed.message) == (Phase.FAILED, "OUT_OF_MEMORY", "words")


def test_deployment_that_is_refused_is_given_up_and_may_be_gone_at_once() -> None:
    ledger = deployed()
    ledger.applications.refused("app", reason="DEPLOY_FAILED", message="no", now=NOW + 1)
    assert (application(ledger).phase, application(ledger).reason) == (Phase.FAILED, "DEPLOY_FAILED")
    assert not was_taken_on(ledger, NOW + 1)
    assert was_taken_on(ledger, NOW + 2)


def test_application_that_answers_although_its_call_failed_runs_until_ray_serve_no_longer_lists_it() -> None:
    ledger = deployed()
    report_engines(ledger, {"app/r1": engine()})
    ledger.applications.refused("app", reason="DEPLOY_FAILED", message="timeout", now=NOW + 1)
    assert application(ledger).phase is Phase.RUNNING
    assert ledger.applications.missing_in({}, NOW + 2) == ("app",)


def test_message_of_ray_serve_says_what_a_starting_application_waits_for() -> None:
    ledger = adopted()
    assert ledger.applications.serve_reported(STARTS, NOW + TAKEN_ON_S + 1, NOW) == ()
    assert (application(ledger).phase, application(ledger).message) == (Phase.STARTING, "waits for a GPU")


# -- deleted, gone ---------------------------------------------------------------------------------


def test_application_being_deleted_has_no_endpoints() -> None:
    ledger = adopted()
    report_engines(ledger, {"app/r1": engine()})
    ledger.applications.deleted("app")
    report_engines(ledger, {"app/r1": engine(reported_at=NOW + 1)}, NOW + 1)
    deleting = application(ledger)
    assert (deleting.phase, deleting.endpoints) == (Phase.DELETING, ())


def test_application_is_gone_when_ray_serve_no_longer_lists_it() -> None:
    ledger = adopted()
    report_engines(ledger, {"app/r1": engine()})
    asked_at = NOW + TAKEN_ON_S + 1
    assert ledger.applications.missing_in(STARTS, asked_at) == ()
    assert ledger.applications.missing_in({}, asked_at) == ("app",)
    ledger.applications.gone("app")
    assert ledger.applications.names() == frozenset()
    assert ledger.applications.engines(NOW) == {}, "its replicas are gone too"
    ledger.applications.gone("app")
    ledger.applications.deployed(record())
    assert application(ledger).phase is Phase.STARTING, "an application of the same name starts anew"


def test_application_is_not_gone_while_the_call_that_deploys_it_is_under_way() -> None:
    ledger = deployed()
    ledger.applications.gone("app")
    assert ledger.applications.names() == {"app"}


# -- joined, left ----------------------------------------------------------------------------------


def test_drain_is_overdue_after_its_limit() -> None:
    ledger = adopted()
    ledger.applications.joined("app")
    ledger.applications.left("app", 3, NOW)
    assert application(ledger).left_sequence == 3
    assert not application(ledger, NOW + DRAIN_S).drain_overdue
    assert application(ledger, NOW + DRAIN_S + 1).drain_overdue
    ledger.applications.joined("app")
    assert application(ledger).left_sequence == 0
    assert not application(ledger, NOW + DRAIN_S + 1).drain_overdue


# -- queries ---------------------------------------------------------------------------------------


def test_ledger_is_settled_while_no_application_starts_or_is_deleted() -> None:
    ledger = deployed()
    assert not ledger.applications.is_settled()
    ledger.applications.taken_on("app", NOW)
    assert not ledger.applications.is_settled()
    report_engines(ledger, {"app/r1": engine()})
    assert ledger.applications.is_settled()
    ledger.applications.deleted("app")
    assert not ledger.applications.is_settled()


def test_adapter_list_is_published_once_for_each_catalog_revision() -> None:
    ledger = adopted()
    assert ledger.applications.without_adapters_of(7) == {"app": "models/m"}
    ledger.applications.adapters_published(["app"], 7)
    assert ledger.applications.without_adapters_of(7) == {}
    assert ledger.applications.without_adapters_of(8) == {"app": "models/m"}


def test_rescaled_application_keeps_everything_but_its_record() -> None:
    ledger = adopted()
    report_engines(ledger, {"app/r1": engine()})
    before = application(ledger)
    rescaled = replace(record(), replica_bounds=b"more", revision_number=2)
    assert ledger.applications.rescaled(rescaled) == rescaled
    assert application(ledger) == replace(before, replica_bounds=b"more", revision_number=2)


def test_application_that_is_placed_while_it_is_rescaled_stays_placed() -> None:
    ledger = adopted()
    rescaled = replace(record(), replica_bounds=b"more")
    ledger.applications.placed("app")
    assert ledger.applications.rescaled(rescaled) == replace(rescaled, placed=True)
    assert application(ledger).placed


def test_application_that_is_gone_is_not_rescaled() -> None:
    assert empty().applications.rescaled(record()) is None


def test_requests_in_an_application_are_summed_over_the_live_ingress_replicas() -> None:
    ledger = adopted()
    report_ingresses(ledger, {"dead": ingress(in_flight=100, in_app=100)}, NOW - REPORT_LIFETIME_S)
    report_ingresses(ledger, {"a": ingress(in_flight=2, in_app=1), "b": ingress(in_flight=3, in_app=3)})
    assert situation(ledger).in_flight == {"models/m": 5}
    assert application(ledger).in_use == 4
