"""Which adapters the replicas of an application may keep loaded. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.relay.messages import LiveAdapters
from dataplane.snapshot.snapshot import Snapshot


def live_adapters(snapshot: Snapshot, applications: Mapping[str, str]) -> dict[str, LiveAdapters]:
    """The adapters in the catalog, by application.

    Args:
        snapshot: The active one.
        applications: By application: resource name of its model.
    """
    names: dict[str, set[str]] = {model: set() for model in applications.values()}
    for adapter in (*snapshot.adapters.values(), *snapshot.pinned_adapters.values()):
        if adapter.model in names:
            names[adapter.model].add(engine_adapter_name(adapter))
    return {
        application: LiveAdapters(catalog_revision=snapshot.position.revision, names=frozenset(names[model]))
        for application, model in applications.items()
    }
