from __future__ import annotations

from controlplane.metrics.metrics import ANNOUNCED_MAX, Metrics


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"broadsheet_controlplane_{name}", labels)


def test_rpcs_are_counted_by_method_and_code_and_unary_ones_are_timed() -> None:
    metrics = Metrics(clock=Clock())
    metrics.rpc_ended("S/Get", "OK", 0.25)
    metrics.rpc_ended("S/Get", "OK", 0.5)
    metrics.rpc_ended("S/Get", "NOT_FOUND", 0.5)
    metrics.rpc_ended("S/Sync", "OK", None)
    assert value(metrics, "rpcs_total", method="S/Get", code="OK") == 2
    assert value(metrics, "rpcs_total", method="S/Get", code="NOT_FOUND") == 1
    assert value(metrics, "rpc_seconds_sum", method="S/Get") == 1.25
    assert value(metrics, "rpcs_total", method="S/Sync", code="OK") == 1
    assert value(metrics, "rpc_seconds_count", method="S/Sync") is None


def test_each_revision_counts_as_a_commit_once_in_any_order() -> None:
    metrics = Metrics(clock=Clock())
    metrics.begin_at(7)
    assert (value(metrics, "commits_total"), value(metrics, "catalog_revision")) == (0, 7)
    for revision in (8, 10, 9, 10):
        metrics.announced(revision)
    assert (value(metrics, "commits_total"), value(metrics, "catalog_revision")) == (3, 10)


def test_convergence_is_from_the_announcement_to_the_report_of_each_data_plane() -> None:
    clock = Clock()
    metrics = Metrics(clock=clock)
    metrics.announced(1)
    clock.now_s += 0.5
    metrics.served(1)
    clock.now_s += 1
    metrics.served(1)
    assert value(metrics, "convergence_seconds_count") == 2
    assert value(metrics, "convergence_seconds_sum") == 2.0


def test_revisions_that_were_not_announced_here_are_not_measured() -> None:
    metrics = Metrics(clock=Clock())
    metrics.begin_at(5)
    metrics.served(5)
    assert value(metrics, "convergence_seconds_count") == 0


def test_times_of_old_revisions_are_forgotten() -> None:
    metrics = Metrics(clock=Clock())
    for revision in range(1, ANNOUNCED_MAX + 2):
        metrics.announced(revision)
    metrics.served(1)
    assert value(metrics, "convergence_seconds_count") == 0
    metrics.served(2)
    assert value(metrics, "convergence_seconds_count") == 1


def test_a_revocation_is_measured_from_its_commit_to_the_report_of_each_data_plane() -> None:
    clock = Clock()
    metrics = Metrics(clock=clock)
    metrics.revocations_begin_at(4)
    metrics.revoked(4)
    metrics.revocations_applied(4)
    assert value(metrics, "revocation_seconds_count") == 0, "it was found at start"
    metrics.revoked(6)
    clock.now_s += 0.5
    metrics.revoked(6)
    metrics.revocations_applied(6)
    clock.now_s += 1
    metrics.revocations_applied(6)
    assert value(metrics, "revocation_seconds_count") == 2
    assert value(metrics, "revocation_seconds_sum") == 2.0


def test_times_of_old_revocations_are_forgotten() -> None:
    metrics = Metrics(clock=Clock())
    for sequence in range(1, ANNOUNCED_MAX + 2):
        metrics.revoked(sequence)
    metrics.revocations_applied(1)
    assert value(metrics, "revocation_seconds_count") == 0
    metrics.revocations_applied(2)
    assert value(metrics, "revocation_seconds_count") == 1


def test_states_are_counted_when_somebody_asks() -> None:
    metrics = Metrics(clock=Clock())
    counts = {"IDLE": 1}
    metrics.count_streams(lambda: counts)
    assert value(metrics, "streams", state="IDLE") == 1
    counts["IDLE"], counts["SENDING"] = 2, 1
    assert value(metrics, "streams", state="IDLE") == 2
    assert value(metrics, "streams", state="SENDING") == 1


def test_revisions_that_share_a_commit_are_counted() -> None:
    metrics = Metrics(clock=Clock())
    metrics.committed(1, 0.25)
    metrics.committed(40, 0.5)
    assert (value(metrics, "commit_revisions_count"), value(metrics, "commit_revisions_sum")) == (2, 41)
    assert value(metrics, "commit_seconds_sum") == 0.75


def test_operations_of_the_database_are_timed_by_kind() -> None:
    metrics = Metrics(clock=Clock())
    metrics.database_operation("read", 0.25)
    metrics.database_operation("read", 0.5)
    metrics.database_operation("lookup", 0.0001)
    assert value(metrics, "database_seconds_sum", operation="read") == 0.75
    assert value(metrics, "database_seconds_bucket", operation="lookup", le="0.0001") == 1


def test_data_planes_are_counted_by_their_lag() -> None:
    metrics = Metrics(clock=Clock())
    metrics.count_lags(lambda: {"none": 3, "longer": 1})
    assert (value(metrics, "data_planes_behind", lag="none"), value(metrics, "data_planes_behind", lag="longer")) == (
        3,
        1,
    )


def test_the_audit_backlog_is_asked_for_when_it_is_shown() -> None:
    metrics, overdue_s = Metrics(clock=Clock()), [0.0]
    metrics.show_audit_backlog(lambda: overdue_s[0])
    overdue_s[0] = 60.0
    assert value(metrics, "audit_retention_overdue_seconds") == 60
