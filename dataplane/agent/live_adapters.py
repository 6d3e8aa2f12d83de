"""Which adapters the replicas of an application may keep loaded. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from broadsheet.v1 import snapshot_pb2
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.openai.wire import encode_adapter
from dataplane.relay.messages import LiveAdapters
from dataplane.snapshot.snapshot import Snapshot

NEWEST_MAX = 32
"""Adapters that a running replica tries to load because they are new. Of a larger change at once,
the others are loaded when somebody asks for them."""


def live_adapters(snapshot: Snapshot, applications: Mapping[str, str]) -> dict[str, LiveAdapters]:
    """The adapters in the catalog, by application.

    Args:
        snapshot: The active one.
        applications: By application: resource name of its model.
    """
    current: dict[str, list[snapshot_pb2.AdapterEntry]] = {model: [] for model in applications.values()}
    pinned: dict[str, list[snapshot_pb2.AdapterEntry]] = {model: [] for model in applications.values()}
    for entries, by_model in ((snapshot.adapters, current), (snapshot.pinned_adapters, pinned)):
        for adapter in entries.values():
            if adapter.model in by_model:
                by_model[adapter.model].append(adapter)
    found = {
        model: LiveAdapters(
            catalog_revision=snapshot.position.revision,
            names=frozenset(engine_adapter_name(adapter) for adapter in (*current[model], *pinned[model])),
            newest=tuple(map(encode_adapter, heapq.nlargest(NEWEST_MAX, current[model], key=_changed_at))),
        )
        for model in current
    }
    return {application: found[model] for application, model in applications.items()}


def _changed_at(adapter: snapshot_pb2.AdapterEntry) -> int:
    return adapter.revision.catalog_revision
