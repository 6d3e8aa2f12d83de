"""Reports of replicas: renewed, withdrawn, expired, and lost with the relay."""

from __future__ import annotations

from collections.abc import Mapping, Set

import pytest

from dataplane.agent.ledger.reports import REMEMBERED_S, REPORT_LIFETIME_S, ReportChanges, Reports, ReportUpdate
from dataplane.relay.messages import EngineReport
from tests.unit.dataplane.agent.ledger.reporting import NOW, engine


def made(*keys: str, reported_at: float = NOW) -> dict[str, EngineReport]:
    return {key: engine(reported_at=reported_at) for key in keys}


def reports(*keys: str) -> Reports[EngineReport]:
    found: Reports[EngineReport] = Reports()
    observe(found, NOW, is_complete=True, changed=made(*keys))
    return found


def observe(
    found: Reports[EngineReport],
    now: float,
    *,
    epoch: str = "first",
    is_complete: bool = False,
    changed: Mapping[str, EngineReport] | None = None,
    removed: Set[str] = frozenset(),
) -> ReportChanges[EngineReport]:
    update = ReportUpdate(epoch=epoch, is_complete=is_complete, changed=changed or {}, removed=removed)
    return found.observe(update, now)


def test_withdrawn_report_no_longer_counts() -> None:
    found = reports("a/1", "a/2")
    assert set(observe(found, NOW, removed={"a/1"}).ended) == {"a/1"}
    assert set(found.live(NOW)) == {"a/2"}


def test_report_that_is_not_renewed_expires() -> None:
    found = reports("a/1")
    expired_at = NOW + REPORT_LIFETIME_S
    assert found.live(expired_at - 0.1)
    assert found.live(expired_at) == {}
    observe(found, expired_at, changed=made("a/1"))
    assert found.live(expired_at)


@pytest.mark.parametrize("ahead_s", [-3600.0, -11.0, 3600.0])
def test_replica_whose_clock_differs_counts_from_arrival_to_expiry(ahead_s: float) -> None:
    found: Reports[EngineReport] = Reports()
    observe(found, NOW, changed=made("a/1", reported_at=NOW + ahead_s))
    assert set(found.live(NOW + REPORT_LIFETIME_S - 0.1)) == {"a/1"}
    assert found.live(NOW + REPORT_LIFETIME_S) == {}


def test_known_report_that_the_relay_passes_on_again_is_not_renewed() -> None:
    found = reports("a/1")
    for later in (NOW + 5, NOW + REPORT_LIFETIME_S, NOW + REPORT_LIFETIME_S + 5):
        changes = observe(found, later, is_complete=True, changed=made("a/1", "a/2", reported_at=NOW))
        assert "a/1" not in changes.renewed
    assert set(found.live(NOW + REPORT_LIFETIME_S)) == {"a/2"}
    assert set(observe(found, NOW + 15, is_complete=True, changed=made("a/1", reported_at=NOW + 1)).renewed) == {"a/1"}


def test_silent_replicas_are_forgotten_some_day() -> None:
    found = reports("a/1")
    observe(found, NOW + REMEMBERED_S)
    assert found._latest == {}


def test_renewed_report_ends_the_one_before_if_that_still_counts() -> None:
    found = reports("a/1")
    changes = observe(found, NOW + 5, changed=made("a/1", reported_at=NOW + 5))
    assert changes.ended == made("a/1")
    assert changes.renewed == made("a/1", reported_at=NOW + 5)
    assert observe(found, NOW + 50, changed=made("a/1", reported_at=NOW + 50)).ended == {}


def test_complete_answer_of_the_same_relay_replaces_all_reports() -> None:
    found = reports("a/1", "a/2")
    changes = observe(found, NOW, is_complete=True, changed=made("a/2", "a/3"))
    assert (set(changes.ended), set(changes.renewed)) == ({"a/1"}, {"a/3"})
    assert set(found.live(NOW)) == {"a/2", "a/3"}


def test_reports_that_a_restarted_relay_lost_count_until_every_replica_had_time_to_repeat_them() -> None:
    found = reports("a/1", "a/2")
    assert observe(found, NOW + 1, epoch="second", is_complete=True).ended == {}
    assert set(found.live(NOW + 1)) == {"a/1", "a/2"}
    # A watcher that fell behind is given everything once more, before all have reported again.
    again = made("a/1", reported_at=NOW + 2)
    assert set(observe(found, NOW + 2, epoch="second", is_complete=True, changed=again).renewed) == {"a/1"}
    assert set(found.live(NOW + 2)) == {"a/1", "a/2"}
    withdrawn = observe(found, NOW + 3, epoch="second", removed={"a/1"})
    assert set(withdrawn.ended) == {"a/1"}, "repeated and then withdrawn: gone"
    assert found.live(NOW + REPORT_LIFETIME_S) == {}


def test_complete_answer_counts_again_some_time_after_the_restart_of_the_relay() -> None:
    found = reports("a/1")
    later = NOW + 1 + REPORT_LIFETIME_S
    observe(found, NOW + 1, epoch="second", is_complete=True)
    observe(found, later, epoch="second", changed=made("a/1", "a/2", reported_at=later))
    complete = made("a/2", reported_at=later)
    assert set(observe(found, later, epoch="second", is_complete=True, changed=complete).ended) == {"a/1"}


def test_reports_of_an_application_that_is_gone_are_dropped() -> None:
    found = reports("a/1", "a/2", "ab/1")
    found.forget("a/")
    assert set(found.live(NOW)) == {"ab/1"}
