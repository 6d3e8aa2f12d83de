"""What `status` makes of what Ray Serve has and of what replicas report."""

from __future__ import annotations

import json

from dataplane.launch.observed import Observed, applications, ingress_replicas
from dataplane.launch.status_view import as_json, tables
from dataplane.relay.messages import ApplicationRecord, IngressReport, ModelUsageReport
from dataplane.snapshot.snapshot import Position

POSITION = Position(store_uid="s", revision=7, digest=b"")
NEWER = Position(store_uid="s", revision=8, digest=b"")


def report(position: Position | None) -> IngressReport:
    models = {
        "models/m": ModelUsageReport(in_flight=2, idle_s=0.0),
        "models/n": ModelUsageReport(in_flight=1, idle_s=0.0),
    }
    return IngressReport(position=position, activation_sequence=1, models=models, applications={}, reported_at=0.0)


def record(name: str, model: str) -> ApplicationRecord:
    return ApplicationRecord(
        name=name, model=model, revision_number=3, entry=b"", replica_bounds=b"", secret="s", created_at=0.0
    )


def observed(**ingress: IngressReport) -> Observed:
    return Observed(
        data_plane_id="local",
        release="1",
        http="127.0.0.1:8000",
        agent="RUNNING",
        ingress="RUNNING",
        ingress_replicas=ingress_replicas(("a", "b"), ingress),
        applications=applications({"m": "RUNNING"}, {"m": record("m", "models/m")}, {"m": 2}),
    )


def test_only_replicas_that_live_are_shown_and_silent_ones_too() -> None:
    found = ingress_replicas(("b", "a"), {"a": report(POSITION), "gone": report(POSITION)})
    assert [(one.replica_id, one.position, one.in_flight) for one in found] == [("a", POSITION, 3), ("b", None, 0)]


def test_the_position_is_one_that_every_ingress_replica_decides_by() -> None:
    assert observed(a=report(POSITION), b=report(POSITION)).position == POSITION
    assert observed(a=report(POSITION), b=report(NEWER)).position is None
    assert observed(a=report(POSITION)).position is None


def test_applications_that_only_one_side_knows_are_shown() -> None:
    found = applications({"stray": "RUNNING"}, {"lost": record("lost", "models/lost")}, {})
    assert [(one.name, one.model, one.state, one.ready_replicas) for one in found] == [
        ("lost", "models/lost", "MISSING", 0),
        ("stray", "", "RUNNING", 0),
    ]


def test_status_is_printed_as_json_and_as_tables() -> None:
    seen = observed(a=report(POSITION), b=report(POSITION))
    shown = json.loads(as_json(seen))
    assert shown["position"] == {"store_uid": "s", "catalog_revision": 7}
    assert shown["applications"] == [
        {"name": "m", "model": "models/m", "revision_number": 3, "state": "RUNNING", "ready_replicas": 2}
    ]
    assert [table.row_count for table in tables(seen)] == [1, 2, 1]
