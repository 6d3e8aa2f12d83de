"""Inconsistent snapshots are refused."""

from __future__ import annotations

import pytest

from dataplane.snapshot.rejection import BASE_MODEL_MISSING, NAME_MISMATCH, ROUTE_TARGET_MISSING, SERVED_NAME_CONFLICT
from tests import views
from tests.raw import adapter, model, raw, raws, rejected

PIN = views.pinned(model("a", number=4))
ROUTED = raws(
    model("a"), adapter("a", "x"), PIN, views.route("r", {"models/a": 1, "models/a/revisions/4": 2}, served_name="chat")
)


def test_an_entry_under_another_name_is_refused() -> None:
    assert rejected((raw(model("a"), name="models/z"),)) == NAME_MISMATCH


def test_two_resources_with_the_same_served_name_are_refused() -> None:
    twin = model("b")
    twin.served_name = "a"
    assert rejected(raws(model("a"), twin)) == SERVED_NAME_CONFLICT


def test_an_adapter_without_its_base_is_refused() -> None:
    assert rejected(raws(adapter("a", "x"), model("b"))) == BASE_MODEL_MISSING


def test_an_adapter_cannot_be_the_base_of_another() -> None:
    other = adapter("a", "y")
    other.model = "models/a/adapters/x"
    assert rejected(raws(model("a"), adapter("a", "x"), other)) == BASE_MODEL_MISSING


@pytest.mark.parametrize("missing", ["models/a", "models/a/revisions/4"])
def test_a_route_with_a_missing_target_is_refused(missing: str) -> None:
    reason = rejected(tuple(entry for entry in ROUTED if entry.name not in (missing, "models/a/adapters/x")))
    assert reason == (BASE_MODEL_MISSING if missing == "models/a" else ROUTE_TARGET_MISSING)


def test_a_route_with_the_served_name_of_a_model_is_refused() -> None:
    route = views.route("r", {"models/a": 1}, served_name="a")
    assert rejected(raws(model("a"), route)) == SERVED_NAME_CONFLICT
