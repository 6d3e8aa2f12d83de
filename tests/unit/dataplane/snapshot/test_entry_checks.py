"""Entries that cannot be decoded or may not be served are quarantined alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.quarantine import (
    BLOB_UNREADABLE,
    ENGINE_ARGUMENT_NOT_ALLOWED,
    ENTRY_INVALID,
    SOURCE_NOT_ALLOWED,
    TYPE_UNKNOWN,
)
from dataplane.snapshot.snapshot import RawEntry
from tests import views
from tests.raw import CATALOG, POLICY, accepted, adapter, model, raw, raws

PIN = views.pinned(model("a", number=4))


@pytest.mark.parametrize(
    "targets", [{}, {"models/a": 0}, {"models/a": 10**6}, {"routes/r": 1}, {f"models/m{n}": 1 for n in range(17)}]
)
def test_a_route_that_breaks_a_rule_is_quarantined_alone(targets: dict[str, int]) -> None:
    route = views.route("r", targets)
    there = [model(name.removeprefix("models/")) for name in targets if name.startswith("models/m")]
    snapshot = accepted(raws(model("a"), *there, route))
    assert snapshot.quarantined["routes/r"].reason == ENTRY_INVALID
    assert not snapshot.routes
    assert "a" in snapshot.served


def test_a_pin_whose_name_contradicts_its_fields_is_quarantined_alone() -> None:
    pin = snapshot_pb2.ModelRevisionEntry()
    pin.CopyFrom(PIN)
    pin.revision.number = 5
    snapshot = accepted(raws(model("a"), pin))
    assert snapshot.quarantined["models/a/revisions/4"].reason == ENTRY_INVALID
    assert set(snapshot.deployable) == {"models/a"}


@pytest.mark.parametrize(("number", "percent"), [(1, 10), (2, 0), (2, 100)])
def test_an_invalid_candidate_is_quarantined_and_its_model_is_served(number: int, percent: int) -> None:
    snapshot = accepted(raws(views.with_candidate(model("a"), model("a", number=number), percent)))
    assert snapshot.quarantined[f"models/a/revisions/{number}"].reason == ENTRY_INVALID
    assert set(snapshot.deployable) == {"models/a"}


def test_a_candidate_with_a_forbidden_source_is_quarantined_and_its_model_is_served() -> None:
    entry = views.with_candidate(model("a"), model("a", number=2, uri="file:///elsewhere"), 10)
    policy = replace(POLICY, allowed_sources=("file:///models",))
    snapshot = accepted(raws(entry), policy=policy)
    assert snapshot.quarantined["models/a/revisions/2"].reason == SOURCE_NOT_ALLOWED
    assert set(snapshot.deployable) == {"models/a"}
    assert "a" in snapshot.served


def _with_remote_code(number: int = 1) -> snapshot_pb2.ModelEntry:
    entry = model("c", number=number)
    entry.revision.spec.engine.args["trust_remote_code"] = True
    return entry


def test_a_model_whose_engine_arguments_are_not_allowed_is_quarantined_alone() -> None:
    entries = raws(model("a"), _with_remote_code(), views.pinned(_with_remote_code(4)))
    snapshot = accepted(entries)
    assert set(snapshot.served) == {"a"}
    assert set(snapshot.quarantined) == {"models/c", "models/c/revisions/4"}
    quarantine = snapshot.quarantined["models/c"]
    assert (quarantine.reason, quarantine.revision_number) == (ENGINE_ARGUMENT_NOT_ALLOWED, 1)
    assert "'trust_remote_code' runs code" in quarantine.message
    assert "--allowed-engine-args" in quarantine.message
    allowing = replace(POLICY, allowed_engine_args=("trust_remote_code",))
    assert not accepted(entries, policy=allowing).quarantined


def test_engine_arguments_of_a_simulated_model_run_nothing() -> None:
    entry = _with_remote_code()
    entry.revision.spec.engine.kind = model_pb2.Engine.KIND_SIMULATED
    assert not accepted(raws(entry)).quarantined


def test_a_candidate_whose_engine_arguments_are_not_allowed_is_quarantined_and_its_model_is_served() -> None:
    snapshot = accepted(raws(views.with_candidate(model("c"), _with_remote_code(2), 10)))
    assert snapshot.quarantined["models/c/revisions/2"].reason == ENGINE_ARGUMENT_NOT_ALLOWED
    assert set(snapshot.deployable) == {"models/c"}


def test_an_entry_that_breaks_a_rule_is_quarantined_alone_and_the_rule_is_named() -> None:
    wrong = model("c")
    wrong.revision.spec.scaling.min_replicas = -1
    snapshot = accepted(raws(model("a"), wrong))
    assert snapshot.quarantined["models/c"].reason == ENTRY_INVALID
    assert "revision.spec.scaling.min_replicas: got -1" in snapshot.quarantined["models/c"].message
    assert snapshot.quarantined["models/c"].revision_number == 1


def _with_served_name(served_name: str) -> RawEntry:
    wrong = model("c")
    wrong.served_name = served_name
    return raw(wrong)


def _without_source() -> RawEntry:
    wrong = model("c")
    wrong.revision.spec.ClearField("source")
    return raw(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        _with_served_name(""),
        _with_served_name("with space"),
        _without_source(),
        raw(model("c", number=0)),
        raw(model("C")),
    ],
)
def test_rules_that_protos_cannot_express_are_checked(wrong: RawEntry) -> None:
    snapshot = accepted(tuple(sorted((raw(model("a")), wrong), key=lambda entry: entry.name)))
    assert snapshot.quarantined[wrong.name].reason == ENTRY_INVALID
    assert set(snapshot.served) == {"a"}


def test_a_simulated_model_needs_no_source() -> None:
    simulated = model("c")
    simulated.revision.spec.ClearField("source")
    simulated.revision.spec.engine.kind = model_pb2.Engine.KIND_SIMULATED
    assert "c" in accepted(raws(simulated)).served


def test_an_adapter_with_a_forbidden_source_is_quarantined_alone() -> None:
    entries = raws(model("a"), adapter("a", "x", uri="file:///elsewhere/x"), adapter("a", "y"))
    snapshot = accepted(entries, policy=Policy(allowed_sources=("file:///models", "file:///adapters/")))
    assert set(snapshot.served) == {"a", "a:y"}
    assert set(snapshot.quarantined) == {"models/a/adapters/x"}


def test_an_unknown_type_is_quarantined_alone() -> None:
    newer = raw(model("r"), name="widgets/r", type_="broadsheet.v1.WidgetEntry")
    snapshot = accepted((*CATALOG, newer))
    assert snapshot.quarantined["widgets/r"].reason == TYPE_UNKNOWN
    assert len(snapshot.served) == 5
    assert len(snapshot.entries) == 6


def test_an_unreadable_blob_is_quarantined_alone() -> None:
    snapshot = accepted((*CATALOG, raw(model("c"), blob=b"\xff\xff")))
    assert snapshot.quarantined["models/c"].reason == BLOB_UNREADABLE
    assert "c" not in snapshot.served
