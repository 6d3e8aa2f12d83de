"""Use of models and applications, from the reports of the ingress replicas."""

from __future__ import annotations

from dataclasses import replace

from dataplane.agent.ledger.reports import REPORT_LIFETIME_S, ReportUpdate
from dataplane.agent.ledger.usage import POSITIONS_MAX, Usage
from dataplane.agent.situation import Asked
from dataplane.relay.messages import IngressReport
from tests.unit.dataplane.agent.ledger.reporting import NOW, OTHER, POSITION, ingress


def observe(usage: Usage, now: float = NOW, /, **reports: IngressReport) -> None:
    usage.observe(ReportUpdate(epoch="first", changed=reports), now)


def used(**reports: IngressReport) -> Usage:
    usage = Usage()
    observe(usage, NOW, **reports)
    return usage


def test_use_is_summed_over_the_ingress_replicas_that_live() -> None:
    usage = Usage()
    observe(usage, NOW - REPORT_LIFETIME_S, dead=ingress(in_flight=100, in_app=100))
    observe(usage, NOW, a=ingress(in_flight=2, in_app=1), b=ingress(in_flight=3, in_app=3))
    assert usage.in_flight(NOW) == {"models/m": 5}
    assert usage.in_use(NOW) == {"app": 4}


def test_slowest_ingress_replica_counts() -> None:
    usage = used(a=ingress(sequence=4), b=ingress(sequence=7, position=OTHER))
    assert usage.ingress_sequence(NOW) == 4
    assert Usage().ingress_sequence(NOW) is None


def test_silent_ingress_replica_still_decides_by_the_snapshot_that_it_named_last() -> None:
    usage = used(a=ingress(), b=ingress(position=OTHER))
    observe(usage, NOW + 2 * REPORT_LIFETIME_S, b=ingress(position=OTHER))
    assert usage.ingress_positions() == {"a": POSITION, "b": OTHER}


def test_replica_whose_report_the_relay_gave_up_still_decides_by_the_snapshot_that_it_named_last() -> None:
    """The relay gives up a silent writer after 60 s, and a restarted relay knows nobody."""
    usage = used(a=ingress())
    usage.observe(ReportUpdate(epoch="first", changed={}, removed=frozenset({"a"})), NOW + 60)
    assert usage.ingress_positions() == {"a": POSITION}
    usage.observe(ReportUpdate(epoch="second", is_complete=True, changed={}), NOW + 200)
    assert usage.ingress_positions() == {"a": POSITION}


def test_positions_of_the_ingress_replicas_heard_last_are_remembered() -> None:
    usage = used(a=ingress())
    for number in range(POSITIONS_MAX):
        observe(usage, NOW, **{f"r{number}": ingress()})
    assert len(usage.ingress_positions()) == POSITIONS_MAX
    assert "a" not in usage.ingress_positions()
    assert "r0" in usage.ingress_positions()


def test_activity_is_the_newest_of_wakes_requests_and_requests_in_flight() -> None:
    usage = used(a=ingress(idle_s=50))
    assert usage.last_activity(NOW) == {"models/m": NOW - 50}
    usage.requested("models/m", NOW - 20)
    assert usage.last_activity(NOW) == {"models/m": NOW - 20}
    observe(usage, a=ingress(in_flight=1, idle_s=50))
    assert usage.last_activity(NOW) == {"models/m": NOW}
    assert usage.last_activity(NOW + 5) == {"models/m": NOW + 5}


def test_idle_time_begins_when_the_last_request_ends() -> None:
    usage = used(a=ingress(in_flight=1, idle_s=50))
    observe(usage, NOW + 8, a=ingress(idle_s=50, reported_at=NOW + 8))
    assert usage.last_activity(NOW + 100) == {"models/m": NOW + 8}


def test_time_of_a_request_is_never_in_the_future() -> None:
    assert used(a=ingress(idle_s=-100)).last_activity(NOW) == {"models/m": NOW}


def test_activity_does_not_depend_on_the_clock_of_the_ingress_replica() -> None:
    behind = used(a=ingress(idle_s=50, reported_at=NOW - 3600))
    assert behind.last_activity(NOW) == {"models/m": NOW - 50}
    assert used(a=ingress(in_flight=1, reported_at=NOW - 3600)).in_flight(NOW + 5) == {"models/m": 1}


def test_report_that_the_relay_passes_on_again_is_no_activity() -> None:
    usage = used(a=ingress(idle_s=50))
    usage.observe(ReportUpdate(epoch="first", is_complete=True, changed={"a": ingress(idle_s=50)}), NOW + 20)
    assert usage.last_activity(NOW + 20) == {"models/m": NOW - 50}


def test_request_in_flight_at_an_ingress_replica_that_died_does_not_keep_a_model_in_use() -> None:
    usage = used(a=ingress(in_flight=1, idle_s=50))
    later = NOW + REPORT_LIFETIME_S
    assert usage.in_flight(later) == {}
    assert usage.last_activity(later + 100) == {"models/m": NOW}
    observe(usage, later)
    assert usage.last_activity(later + 100) == {"models/m": NOW}


def test_request_in_flight_when_an_ingress_replica_withdraws_its_report_was_in_use_until_then() -> None:
    usage = used(a=ingress(in_flight=1, idle_s=50))
    usage.observe(ReportUpdate(epoch="first", changed={}, removed=frozenset({"a"})), NOW + 5)
    assert usage.last_activity(NOW + 100) == {"models/m": NOW + 5}


def test_activity_of_models_that_are_idle_is_forgotten() -> None:
    usage = used(a=ingress(idle_s=50))
    usage.requested("models/other", NOW)
    usage.keep_only({"models/other"})
    assert usage.last_activity(NOW) == {"models/other": NOW}


def waiting(*callers: str) -> IngressReport:
    report = ingress(in_flight=len(callers))
    usage = replace(report.models["models/m"], waiting_callers=frozenset(callers))
    return replace(report, models={"models/m": usage})


def test_who_asks_is_remembered_with_the_first_time_as_long_as_the_model_is_planned() -> None:
    usage = Usage()
    usage.requested("models/m", NOW - 5)
    assert usage.asked() == {"models/m": Asked(since=NOW - 5)}
    observe(usage, NOW, a=waiting("alice"))
    observe(usage, NOW + 1, a=waiting(), b=waiting("bob"))
    assert usage.asked() == {"models/m": Asked(since=NOW - 5, callers=frozenset({"alice", "bob"}))}
    usage.keep_only({"models/m"})
    assert usage.asked()
    usage.keep_only(set())
    assert usage.asked() == {}


def test_callers_that_are_remembered_for_a_model_are_bounded() -> None:
    usage = Usage()
    for number in range(200):
        observe(usage, NOW + number, a=replace(waiting(f"caller-{number}"), reported_at=NOW + number))
    assert len(usage.asked()["models/m"].callers) <= 64


def test_traffic_is_what_came_since_a_replica_was_first_seen_and_never_falls() -> None:
    usage = Usage()

    def report(now: float, **counts: tuple[int, int]) -> tuple[int, int]:
        observe(
            usage,
            now,
            **{
                replica: replace(ingress(reported_at=now), requests=requests, failures=failures)
                for replica, (requests, failures) in counts.items()
            },
        )
        return usage.traffic

    assert report(NOW, a=(100, 50)) == (0, 0)
    assert report(NOW + 1, a=(103, 51), b=(0, 0)) == (3, 1)
    assert report(NOW + 2, a=(104, 51), b=(2, 2)) == (6, 3)
    # One that begins again, or goes, takes nothing away.
    assert report(NOW + 3, a=(1, 0)) == (6, 3)
    assert report(NOW + 4, a=(2, 0)) == (7, 3)
