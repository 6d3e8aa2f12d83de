"""Reports of replicas: renewed, withdrawn, expired, and lost with the relay."""

from __future__ import annotations

from dataplane.agent.ledger.reports import REPORT_LIFETIME_S, Reports, ReportUpdate
from dataplane.relay.messages import EngineReport
from tests.unit.dataplane.agent.ledger.reporting import NOW, engine


def made(*keys: str, reported_at: float = NOW) -> dict[str, EngineReport]:
    return {key: engine(reported_at=reported_at) for key in keys}


def reports(*keys: str) -> Reports[EngineReport]:
    found: Reports[EngineReport] = Reports()
    found.observe(ReportUpdate(epoch="first", is_complete=True, changed=made(*keys)), NOW)
    return found


def test_withdrawn_report_no_longer_counts() -> None:
    found = reports("a/1", "a/2")
    gone = found.observe(ReportUpdate(epoch="first", changed={}, removed=frozenset({"a/1"})), NOW)
    assert set(gone) == {"a/1"}
    assert set(found.live(NOW)) == {"a/2"}


def test_report_that_is_not_renewed_expires_and_is_dropped() -> None:
    found = reports("a/1")
    expired_at = NOW + REPORT_LIFETIME_S
    assert found.live(expired_at - 0.1)
    assert found.live(expired_at) == {}
    assert found.get("a/1") is not None, "a query drops nothing"
    assert set(found.observe(ReportUpdate(epoch="first", changed={}), expired_at)) == {"a/1"}
    assert found.get("a/1") is None


def test_complete_answer_of_the_same_relay_replaces_all_reports() -> None:
    found = reports("a/1", "a/2")
    gone = found.observe(ReportUpdate(epoch="first", is_complete=True, changed=made("a/2", "a/3")), NOW)
    assert set(gone) == {"a/1"}
    assert set(found.live(NOW)) == {"a/2", "a/3"}


def test_reports_that_a_restarted_relay_lost_count_until_every_replica_had_time_to_repeat_them() -> None:
    found = reports("a/1", "a/2")
    assert found.observe(ReportUpdate(epoch="second", is_complete=True, changed={}), NOW + 1) == {}
    assert set(found.live(NOW + 1)) == {"a/1", "a/2"}
    again = made("a/1", reported_at=NOW + 2)
    # A watcher that fell behind is given everything once more, before all have reported again.
    assert found.observe(ReportUpdate(epoch="second", is_complete=True, changed=again), NOW + 2) == {}
    assert set(found.live(NOW + 2)) == {"a/1", "a/2"}
    withdrawn: ReportUpdate[EngineReport] = ReportUpdate(epoch="second", changed={}, removed=frozenset({"a/1"}))
    assert set(found.observe(withdrawn, NOW + 3)) == {"a/1"}, "repeated and then withdrawn: gone"
    assert set(found.observe(ReportUpdate(epoch="second", changed={}), NOW + REPORT_LIFETIME_S)) == {"a/2"}
    assert found.live(NOW + REPORT_LIFETIME_S) == {}


def test_complete_answer_counts_again_some_time_after_the_restart_of_the_relay() -> None:
    found = reports("a/1")
    later = NOW + 1 + REPORT_LIFETIME_S
    found.observe(ReportUpdate(epoch="second", is_complete=True, changed={}), NOW + 1)
    found.observe(ReportUpdate(epoch="second", changed=made("a/1", "a/2", reported_at=later)), later)
    complete = ReportUpdate(epoch="second", is_complete=True, changed=made("a/2", reported_at=later))
    assert set(found.observe(complete, later)) == {"a/1"}


def test_reports_of_an_application_that_is_gone_are_dropped() -> None:
    found = reports("a/1", "a/2", "ab/1")
    found.forget("a/")
    assert set(found.live(NOW)) == {"ab/1"}
