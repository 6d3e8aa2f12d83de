"""Which entries of the list of models have to be encoded again after a change. Pure.

An adapter shows fields of its base model, and a route those of what it sends requests to. Both are
found through the indexes of the snapshot, so that the cost is in proportion to what is affected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from broadsheet.v1 import snapshot_pb2
from dataplane.snapshot.snapshot import Snapshot


def changed_served_names(before: Snapshot | None, snapshot: Snapshot) -> list[str]:
    """Served names whose entries are new, gone, or encoded in another way than before.

    Args:
        before: The snapshot whose entries are encoded; None: none are.
        snapshot: The snapshot to encode.
    """
    if before is None:
        return list(snapshot.served)
    served = snapshot.served.changed_keys(before.served)
    resources = {
        resource.name
        for name in served
        for resource in (before.served.get(name), snapshot.served.get(name))
        if resource is not None
    }
    resources.update(snapshot.deployable.changed_keys(before.deployable))
    resources.update(snapshot.pinned_adapters.changed_keys(before.pinned_adapters))
    models = {name for name in resources if name in before.models or name in snapshot.models}
    adapters = dict(_adapters_of(snapshot, models))
    routes = _routes_to(snapshot, {*resources, *adapters})
    return sorted({*served, *(adapter.served_name for adapter in adapters.values()), *routes})


def _adapters_of(snapshot: Snapshot, models: Iterable[str]) -> Iterator[tuple[str, snapshot_pb2.AdapterEntry]]:
    for model in models:
        prefix = f"{model}/"
        for name, adapter in snapshot.adapters.items_from(prefix):
            if not name.startswith(prefix):
                break
            yield name, adapter


def _routes_to(snapshot: Snapshot, resources: Iterable[str]) -> Iterator[str]:
    """Served names of the routes that refer to these resources."""
    for resource in resources:
        for (name, referring), _ in snapshot.references.items_from((resource, "")):
            if name != resource:
                break
            route = snapshot.routes.get(referring)
            if route is not None:
                yield route.served_name
