"""Entries that cannot be decoded are quarantined alone."""

from __future__ import annotations

from dataplane.snapshot.quarantine import BLOB_UNREADABLE, TYPE_UNKNOWN
from tests.raw import CATALOG, accepted, model, raw


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
