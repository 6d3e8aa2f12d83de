"""The indexes of an accepted snapshot."""

from __future__ import annotations

from broadsheet.v1 import snapshot_pb2
from dataplane.openai.adapter_names import engine_adapter_name
from tests import views
from tests.raw import accepted, adapter, model, raws

PIN = views.pinned(model("a", number=4))
ROUTED = raws(
    model("a"), adapter("a", "x"), PIN, views.route("r", {"models/a": 1, "models/a/revisions/4": 2}, served_name="chat")
)


def test_routes_and_pinned_revisions_are_indexed() -> None:
    snapshot = accepted(ROUTED)
    assert snapshot.served["chat"] is snapshot.routes["routes/r"]
    pinned = snapshot.deployable["models/a/revisions/4"]
    assert (pinned.name, pinned.uid, pinned.revision.number) == ("models/a/revisions/4", "uid-a", 4)
    assert set(snapshot.deployable) == {"models/a", "models/a/revisions/4"}
    assert set(snapshot.models) == {"models/a"}
    assert accepted(ROUTED, held=snapshot).routes == snapshot.routes


def test_a_pinned_adapter_revision_has_its_own_engine_side_name() -> None:
    pin = snapshot_pb2.AdapterRevisionEntry(
        name="models/a/adapters/x/revisions/1", adapter="models/a/adapters/x", revision=adapter("a", "x").revision
    )
    snapshot = accepted(raws(model("a"), adapter("a", "x"), pin))
    pinned = snapshot.pinned_adapters[pin.name]
    assert pinned.model == "models/a"
    assert engine_adapter_name(pinned) != engine_adapter_name(snapshot.adapters["models/a/adapters/x"])


def test_a_route_with_a_quarantined_target_is_served() -> None:
    route = views.route("r", {"models/a": 1, "models/b": 1})
    snapshot = accepted(raws(model("a"), model("b", uri="s3://nowhere/b"), route))
    assert set(snapshot.served) == {"a", "r"}


def test_a_pinned_revision_of_a_quarantined_model_is_served() -> None:
    snapshot = accepted(raws(model("a", uri="s3://nowhere/a"), PIN, views.route("r", {"models/a/revisions/4": 1})))
    assert set(snapshot.deployable) == {"models/a/revisions/4"}


def test_a_candidate_is_indexed_as_a_model_of_its_own() -> None:
    snapshot = accepted(raws(views.with_candidate(model("a"), model("a", number=2), 10)))
    assert set(snapshot.deployable) == {"models/a", "models/a/revisions/2"}
    assert snapshot.deployable["models/a/revisions/2"].revision.number == 2
    assert not snapshot.quarantined
