"""Entries of a snapshot."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from broadsheet.v1 import model_pb2, snapshot_pb2
from controlplane import errors
from controlplane.catalog import domain, snapshot
from protocol.catalog_digest import blob_digest

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def model(**labels: str) -> domain.Model:
    revision = domain.ModelRevision(
        number=3,
        spec=model_pb2.ModelSpec(source=model_pb2.Source(uri="file:///m")),
        card=model_pb2.ModelCard(display_name="M"),
        create_time=MOMENT,
        catalog_revision=7,
    )
    return domain.Model(
        id="m",
        uid="u",
        served_name="org/m",
        labels=labels,
        revision=revision,
        create_time=MOMENT,
        update_time=MOMENT,
        catalog_revision=9,
    )


def test_a_model_entry_holds_the_model() -> None:
    entry = snapshot.model_entry(model(a="b"))
    message = snapshot_pb2.ModelEntry.FromString(entry.blob)
    assert (entry.name, entry.type) == ("models/m", "broadsheet.v1.ModelEntry")
    assert (message.name, message.uid, message.served_name, dict(message.labels)) == (
        "models/m",
        "u",
        "org/m",
        {"a": "b"},
    )
    assert message.revision.name == "models/m/revisions/3"
    assert message.revision.catalog_revision == 7
    assert message.create_time.ToDatetime(tzinfo=UTC) == MOMENT


def test_the_digest_is_that_of_the_blob() -> None:
    entry = snapshot.model_entry(model())
    assert entry.digest == blob_digest(entry.blob)


def test_the_order_of_labels_does_not_matter() -> None:
    assert snapshot.model_entry(model(a="1", b="2", c="3")) == snapshot.model_entry(model(c="3", b="2", a="1"))


def test_an_entry_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(snapshot.model_entry(model()).blob)
    monkeypatch.setattr(snapshot, "BLOB_BYTES_MAX", size)
    snapshot.model_entry(model())
    monkeypatch.setattr(snapshot, "BLOB_BYTES_MAX", size - 1)
    with pytest.raises(errors.InvalidArgument) as caught:
        snapshot.model_entry(model())
    assert caught.value.reason == errors.Reason.ENTRY_TOO_LARGE
