"""Which adapters the replicas of an application may keep."""

from __future__ import annotations

from broadsheet.v1 import snapshot_pb2
from dataplane.agent.live_adapters import NEWEST_MAX, left_adapters, live_adapters, untried_adapters
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.openai.wire import decode_adapter, encode_adapter
from dataplane.relay.messages import EngineReport, LiveAdapters, SleepOrder
from tests import views

CURRENT, OTHER = views.adapter("m", "a"), views.adapter("n", "b")
PINNED = snapshot_pb2.AdapterRevisionEntry(
    name=f"{CURRENT.name}/revisions/1", adapter_uid="uid", revision=views.adapter("m", "a", digest=b"\1" * 32).revision
)
CATALOG = views.snapshot(views.model("m"), views.model("n"), CURRENT, OTHER, PINNED, revision=7)


def report(adapters: tuple[str, ...] = (), failed: tuple[str, ...] = ()) -> EngineReport:
    return EngineReport(
        url="http://x",
        in_flight=0,
        adapters=adapters,
        failed_adapters=dict.fromkeys(failed, "R: m"),
        reported_at=0,
        start_s=1,
        weights_s=None,
        sleep_order=SleepOrder(),
        model="models/m",
        adapters_tried=0,
    )


def test_adapters_that_replicas_have_and_the_catalog_has_not_have_left() -> None:
    (pinned,) = CATALOG.pinned_adapters.values()
    live = (engine_adapter_name(CURRENT), engine_adapter_name(pinned))
    older = views.adapter("m", "a", digest=b"\2" * 32)
    gone = (engine_adapter_name(older), engine_adapter_name(OTHER), "never@0123", "odd")
    assert left_adapters(CATALOG, "models/m", [report(live)]) == frozenset()
    assert left_adapters(CATALOG, "models/m", [report(live, gone[:2]), report(gone[2:])]) == frozenset(gone)


def test_an_application_is_told_the_new_adapters_of_its_model() -> None:
    told = live_adapters(CATALOG, "models/m", frozenset({"x"}))
    assert told == LiveAdapters(catalog_revision=7, left=frozenset({"x"}), newest=(encode_adapter(CURRENT),))
    assert live_adapters(CATALOG, "models/gone", frozenset()).newest == ()


def test_the_latest_changed_adapters_come_with_their_entries() -> None:
    adapters = [views.adapter("m", f"a{number}") for number in range(NEWEST_MAX + 8)]
    for number, adapter in enumerate(adapters):
        adapter.revision.catalog_revision = number
    catalog = views.snapshot(views.model("m"), views.model("n"), views.adapter("n", "z"), *adapters)
    told = live_adapters(catalog, "models/m", frozenset())
    assert [decode_adapter(entry.encode()).name for entry in told.newest] == [
        adapter.name for adapter in reversed(adapters[8:])
    ]


def test_adapters_are_untried_that_are_newer_than_what_their_model_has_tried() -> None:
    adapters = [views.adapter(model_id, f"a{number}") for model_id in "mn" for number in range(5)]
    for number, adapter in enumerate(adapters):
        adapter.revision.catalog_revision = number % 5 + 1
    catalog = views.snapshot(views.model("m"), views.model("n"), *adapters)
    found = [adapter.name for adapter in untried_adapters(catalog, {"models/m": 3, "models/gone": 0})]
    assert found == ["models/m/adapters/a3", "models/m/adapters/a4"]
