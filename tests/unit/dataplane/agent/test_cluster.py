"""What the agent makes of the relay."""

from __future__ import annotations

from dataclasses import replace

from dataplane.agent.cluster import REPORT_LIFETIME_S, TAKEN_ON_S, Cluster, Track
from dataplane.agent.reconciler import Phase
from dataplane.relay.messages import (
    ApplicationRecord,
    EngineReport,
    FirstByte,
    IngressReport,
    ModelUsageReport,
    SleepOrder,
    StartFailure,
)
from dataplane.snapshot.snapshot import Position

NOW = 1_000_000.0
AWAKE = SleepOrder()
POSITION = Position(store_uid="s", revision=1, digest=b"\1" * 32)
OTHER = Position(store_uid="s", revision=2, digest=b"\2" * 32)


def record() -> ApplicationRecord:
    return ApplicationRecord(
        name="app", model="models/m", revision_number=1, entry=b"", replica_bounds=b"", secret="s", created_at=NOW - 100
    )


def engine(url: str = "http://127.0.0.1:1", *, age_s: float = 0.0, sleep_order: SleepOrder = AWAKE) -> EngineReport:
    return EngineReport(
        url=url,
        in_flight=0,
        adapters=(),
        failed_adapters={},
        reported_at=NOW - age_s,
        start_s=30.5,
        weights_s=2.25,
        sleep_order=sleep_order,
    )


def ingress(
    *,
    in_flight: int = 0,
    last_request_at: float = 0.0,
    in_app: int = 0,
    sequence: int = 1,
    position: Position = POSITION,
    age_s: float = 0.0,
) -> IngressReport:
    return IngressReport(
        position=position,
        activation_sequence=sequence,
        models={"models/m": ModelUsageReport(in_flight=in_flight, last_request_at=last_request_at)},
        applications={"app": in_app} if in_app else {},
        reported_at=NOW - age_s,
    )


def cluster(**values: object) -> Cluster:
    made = Cluster()
    keys = {key.replace("__", "/"): value for key, value in values.items()}
    made.apply(keys, frozenset(keys), epoch="one", now=NOW)
    return made


def test_keys_that_are_gone_from_the_relay_are_forgotten() -> None:
    made = cluster(application__app=record(), wake__m=1.0)
    made.apply({}, frozenset({"wake/m"}), epoch="one", now=NOW)
    assert made.records() == {}
    assert made.wakes() == {"m": 1.0}


def test_what_a_restarted_relay_has_forgotten_holds_until_everyone_had_time_to_say_it_again() -> None:
    made = cluster(application__app=record(), engine__app_r1=engine())
    made.apply({}, frozenset(), epoch="two", now=NOW)
    assert set(made.records()) == {"app"}
    again = {"application/app": record()}
    made.apply(again, frozenset(again), epoch="two", now=NOW + 1)
    assert set(made.values) == {"application/app", "engine/app_r1"}
    made.apply({}, frozenset(), epoch="two", now=NOW + 2)
    assert set(made.values) == {"engine/app_r1"}, "said again and then removed: gone"
    made.apply({}, frozenset(), epoch="two", now=NOW + REPORT_LIFETIME_S)
    assert made.values == {}


def test_application_starts_answers_and_stays_running_without_a_replica() -> None:
    made = cluster(application__app=record())
    assert made.applications(NOW, 10)["app"].phase is Phase.STARTING
    made.values["engine/app/r1"] = engine()
    running = made.applications(NOW, 10)["app"]
    assert (running.phase, running.ready_at, [one.replica_id for one in running.endpoints]) == (
        Phase.RUNNING,
        NOW,
        ["r1"],
    )
    del made.values["engine/app/r1"]
    later = made.applications(NOW + 5, 10)["app"]
    assert (later.phase, later.ready_at, later.endpoints) == (Phase.RUNNING, NOW, ())


def test_a_start_from_zero_is_timed_by_its_first_replica() -> None:
    made = cluster(application__app=record())
    made.tracks["app"] = Track(deployed_at=NOW)
    made.applications(NOW, 10)
    assert made.cold_starts(NOW) == {}, "it has not started yet"
    made.values["engine/app/r1"] = engine(age_s=-40)
    made.applications(NOW + 40, 10)
    (started,) = made.cold_starts(NOW + 40).values()
    assert started.start.ToTimedelta().total_seconds() == 40
    assert started.engine_start.ToTimedelta().total_seconds() == 30.5
    assert started.weights_load.ToTimedelta().total_seconds() == 2.25
    assert started.ready_time.seconds == NOW + 40
    assert not started.HasField("first_token"), "nobody has been answered"

    # Two ingress replicas held requests for this start, and one remembers an earlier one.
    for key, replica_id, seconds in (("i1", "r1", 41.0), ("i2", "r1", 43.5), ("i3", "r0", 99.0)):
        usage = ModelUsageReport(
            in_flight=0, last_request_at=0, first_byte=FirstByte(replica_id=replica_id, seconds=seconds)
        )
        made.values[f"ingress/{key}"] = replace(ingress(age_s=-40), models={"models/m": usage})
    # A replica that joined later was no cold start.
    made.values["engine/app/r2"] = engine(age_s=-40)
    (answered,) = made.cold_starts(NOW + 40).values()
    assert answered.first_token.ToTimedelta().total_seconds() == 43.5
    assert answered.start == started.start


def test_a_start_that_another_agent_began_is_not_timed() -> None:
    made = cluster(application__app=record(), engine__app__r1=engine())
    made.applications(NOW, 10)
    assert made.cold_starts(NOW) == {}


def test_a_replica_is_no_endpoint_until_it_has_done_what_it_was_told_last() -> None:
    told_to_sleep, told_to_wake = SleepOrder(1, asleep=True), SleepOrder(2)
    made = cluster(application__app=record(), sleep__app=told_to_sleep)
    made.values["engine/app/r1"] = engine()
    before = made.applications(NOW, 10)["app"]
    assert (before.phase, before.asleep, before.all_asleep, before.endpoints) == (Phase.RUNNING, True, False, ())
    made.values["engine/app/r1"] = engine(sleep_order=told_to_sleep)
    sleeps = made.applications(NOW, 10)["app"]
    assert (sleeps.all_asleep, sleeps.endpoints) == (True, ())
    made.values["sleep/app"] = told_to_wake
    waking = made.applications(NOW, 10)["app"]
    assert (waking.asleep, waking.endpoints) == (False, ())
    made.values["engine/app/r1"] = engine(sleep_order=told_to_wake)
    assert len(made.applications(NOW, 10)["app"].endpoints) == 1


def test_an_application_is_placed_when_a_replica_has_begun_to_start() -> None:
    made = cluster(application__app=record())
    assert not made.applications(NOW, 10)["app"].placed
    made.values["placed/app"] = NOW
    assert made.applications(NOW, 10)["app"].placed


def test_report_that_is_not_renewed_is_no_endpoint() -> None:
    made = cluster(application__app=record(), engine__app__r1=engine(age_s=REPORT_LIFETIME_S))
    assert made.applications(NOW, 10)["app"].endpoints == ()


def test_start_failure_counts_only_before_the_first_answer() -> None:
    failure = StartFailure(application="app", replica_id="r1", reason="R", message="words", failed_at=NOW)
    made = cluster(application__app=record(), failure__app__r1=failure)
    made.applications(NOW, 10)
    made.note_start_failures()
    failed = made.applications(NOW, 10)["app"]
    assert (failed.phase, failed.reason, failed.message) == (Phase.FAILED, "R", "words")

    healed = cluster(application__app=record(), failure__app__r1=failure, engine__app__r2=engine())
    healed.applications(NOW, 10)
    healed.note_start_failures()
    assert healed.applications(NOW, 10)["app"].phase is Phase.RUNNING


def test_application_that_goes_has_no_endpoints() -> None:
    made = cluster(application__app=record(), engine__app__r1=engine())
    made.tracks["app"] = Track(deleting=True, ready_at=NOW)
    going = made.applications(NOW, 10)["app"]
    assert (going.phase, going.endpoints) == (Phase.DELETING, ())


def test_use_is_summed_over_the_ingress_replicas_that_live() -> None:
    made = cluster(
        application__app=record(),
        ingress__a=ingress(in_flight=2, in_app=1),
        ingress__b=ingress(in_flight=3, in_app=3),
        ingress__dead=ingress(in_flight=100, in_app=100, age_s=REPORT_LIFETIME_S),
    )
    assert made.in_flight(NOW) == {"models/m": 5}
    assert made.applications(NOW, 10)["app"].in_use == 4


def test_slowest_ingress_replica_counts() -> None:
    made = cluster(ingress__a=ingress(sequence=4), ingress__b=ingress(sequence=7, position=OTHER))
    assert made.ingress_sequence(NOW) == 4
    assert not made.ingresses_hold(NOW, OTHER)
    made.values["ingress/a"] = ingress(position=OTHER)
    assert made.ingresses_hold(NOW, OTHER)
    assert cluster().ingress_sequence(NOW) is None


def test_activity_is_the_newest_of_wakes_requests_and_requests_under_way() -> None:
    activity: dict[str, float] = {}
    made = cluster(ingress__a=ingress(last_request_at=NOW - 50))
    made.note_activity(NOW, activity)
    assert activity == {"models/m": NOW - 50}
    made.values["wake/models/m"] = NOW - 20
    made.note_activity(NOW, activity)
    assert activity == {"models/m": NOW - 20}
    made.values["ingress/a"] = ingress(in_flight=1, last_request_at=NOW - 50)
    made.note_activity(NOW, activity)
    assert activity == {"models/m": NOW}


def test_what_ray_serve_says_is_about_an_application_that_it_had_taken_on() -> None:
    made = cluster(application__app=record())
    made.tracks["app"] = Track(deployed_at=NOW - 100)
    assert not made.had_taken_on(record(), NOW), "the call that makes it is still under way, however long that takes"
    made.tracks["app"].taken_on_at = NOW
    assert not made.had_taken_on(record(), NOW - 1), "it was asked before"
    assert made.had_taken_on(record(), NOW + 1)


def test_an_application_of_an_agent_that_died_is_given_time_to_appear() -> None:
    young = replace(record(), created_at=NOW)
    made = cluster(application__app=young)
    assert not made.had_taken_on(young, NOW + TAKEN_ON_S)
    assert made.had_taken_on(young, NOW + TAKEN_ON_S + 1)


def test_an_application_that_was_told_to_go_had_been_taken_on() -> None:
    made = cluster(application__app=record())
    made.tracks["app"] = Track(deployed_at=NOW, deleting=True)
    assert made.had_taken_on(record(), NOW)


def test_drain_is_overdue_after_its_limit() -> None:
    made = cluster(application__app=record())
    made.tracks["app"] = Track(ready_at=NOW - 50, left_at=NOW - 10)
    assert not made.applications(NOW, 10)["app"].drain_overdue
    assert made.applications(NOW + 1, 10)["app"].drain_overdue
