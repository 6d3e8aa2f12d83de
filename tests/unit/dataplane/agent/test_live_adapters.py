"""Which adapters the replicas of an application may keep."""

from __future__ import annotations

from broadsheet.v1 import snapshot_pb2
from dataplane.agent.live_adapters import NEWEST_MAX, live_adapters
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.openai.wire import decode_adapter, encode_adapter
from dataplane.relay.messages import LiveAdapters
from tests import views

CURRENT, OTHER = views.adapter("m", "a"), views.adapter("n", "b")
PINNED = snapshot_pb2.AdapterRevisionEntry(
    name=f"{CURRENT.name}/revisions/1", adapter_uid="uid", revision=views.adapter("m", "a", digest=b"\1" * 32).revision
)
CATALOG = views.snapshot(views.model("m"), views.model("n"), CURRENT, OTHER, PINNED, revision=7)


def test_application_keeps_the_adapters_of_its_model_with_pinned_revisions() -> None:
    (pinned,) = CATALOG.pinned_adapters.values()
    names = frozenset({engine_adapter_name(CURRENT), engine_adapter_name(pinned)})
    assert len(names) == 2
    assert live_adapters(CATALOG, {"app": "models/m"}) == {
        "app": LiveAdapters(catalog_revision=7, names=names, newest=(encode_adapter(CURRENT),))
    }


def test_applications_of_a_model_keep_the_same_adapters() -> None:
    found = live_adapters(CATALOG, {"old": "models/n", "new": "models/n"})
    assert found["old"] == found["new"]
    assert found["old"].names == frozenset({engine_adapter_name(OTHER)})


def test_the_latest_changed_adapters_come_with_their_entries() -> None:
    adapters = [views.adapter("m", f"a{number}") for number in range(NEWEST_MAX + 8)]
    for number, adapter in enumerate(adapters):
        adapter.revision.catalog_revision = number
    found = live_adapters(views.snapshot(views.model("m"), *adapters), {"app": "models/m"})["app"]
    assert len(found.names) == len(adapters)
    assert [decode_adapter(entry.encode()).name for entry in found.newest] == [
        adapter.name for adapter in reversed(adapters[8:])
    ]


def test_application_of_a_deleted_model_keeps_no_adapters() -> None:
    assert live_adapters(CATALOG, {"app": "models/gone"})["app"].names == frozenset()
