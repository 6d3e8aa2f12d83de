"""Builds the indexes of a snapshot over its checked messages. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from broadsheet.v1 import api_key_pb2, snapshot_pb2
from dataplane.snapshot.api_key import ApiKey
from dataplane.snapshot.quarantine import Quarantine
from dataplane.snapshot.snapshot import (
    Message,
    Pin,
    Position,
    RawEntry,
    Resource,
    Snapshot,
    candidate_name,
    is_api_key,
    model_of,
)
from protocol.catalog_digest import CatalogDigest


def build(
    position: Position,
    entries: Iterable[RawEntry],
    digest: CatalogDigest,
    messages: Iterable[Message],
    quarantined: Mapping[str, Quarantine],
) -> Snapshot:
    """Build a snapshot from messages that `accept` has checked and that are to be served."""
    models: dict[str, snapshot_pb2.ModelEntry] = {}
    adapters: dict[str, snapshot_pb2.AdapterEntry] = {}
    routes: dict[str, snapshot_pb2.RouteEntry] = {}
    keys: dict[str, api_key_pb2.ApiKeyEntry] = {}
    pins: list[Pin] = []
    for message in messages:
        if isinstance(message, snapshot_pb2.ModelEntry):
            models[message.name] = message
        elif isinstance(message, snapshot_pb2.AdapterEntry):
            adapters[message.name] = message
        elif isinstance(message, snapshot_pb2.RouteEntry):
            routes[message.name] = message
        elif isinstance(message, api_key_pb2.ApiKeyEntry):
            keys[message.name] = message
        else:
            pins.append(message)
    served: dict[str, Resource] = {model.served_name: model for model in models.values()}
    served.update((adapter.served_name, adapter) for adapter in adapters.values())
    served.update((route.served_name, route) for route in routes.values())
    deployable = (
        models
        | {pin.name: _pinned_model(pin, models) for pin in pins if isinstance(pin, snapshot_pb2.ModelRevisionEntry)}
        | {
            name: _candidate(name, model)
            for model in models.values()
            if (name := candidate_name(model)) is not None and name not in quarantined
        }
    )
    entries = tuple(entries)
    return Snapshot(
        position=position,
        entries=entries,
        digest=digest,
        models=MappingProxyType(models),
        adapters=MappingProxyType(adapters),
        served=MappingProxyType(served),
        routes=MappingProxyType(routes),
        deployable=MappingProxyType(deployable),
        wanted_unasked=tuple(
            name
            for name, entry in deployable.items()
            if entry.revision.spec.scaling.min_replicas > 0 or entry.HasField("warm_until")
        ),
        revisions=MappingProxyType(_revisions(deployable.keys() - models.keys())),
        pinned_adapters=MappingProxyType(
            {pin.name: _pinned_adapter(pin) for pin in pins if isinstance(pin, snapshot_pb2.AdapterRevisionEntry)}
        ),
        quarantined=MappingProxyType(dict(quarantined)),
        api_key_entries=MappingProxyType(keys),
        api_keys=MappingProxyType({key.key_hash: ApiKey.of(key) for key in keys.values() if not key.revoked}),
        has_api_keys=bool(keys) or any(is_api_key(entry) for entry in entries),
    )


def _revisions(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in sorted(names):
        model = model_of(name)
        found[model] = (*found.get(model, ()), name)
    return found


def _candidate(name: str, model: snapshot_pb2.ModelEntry) -> snapshot_pb2.ModelEntry:
    entry = snapshot_pb2.ModelEntry(name=name, uid=model.uid, served_name=model.served_name, revision=model.candidate)
    scaling = entry.revision.spec.scaling
    if model.warm_candidate:
        # Its engine starts before the first request, in the same application.
        scaling.min_replicas = max(1, scaling.min_replicas)
    return entry


def _pinned_model(
    pin: snapshot_pb2.ModelRevisionEntry, models: Mapping[str, snapshot_pb2.ModelEntry]
) -> snapshot_pb2.ModelEntry:
    model = models.get(pin.model)
    return snapshot_pb2.ModelEntry(
        name=pin.name,
        uid=pin.model_uid,
        # Engines need a name to start with. Callers use the served names of routes.
        served_name=model.served_name if model is not None else pin.model.removeprefix("models/"),
        revision=pin.revision,
    )


def _pinned_adapter(pin: snapshot_pb2.AdapterRevisionEntry) -> snapshot_pb2.AdapterEntry:
    return snapshot_pb2.AdapterEntry(
        name=pin.name,
        uid=pin.adapter_uid,
        served_name=pin.name,  # unique, so that its engine-side name is unique too
        model=model_of(pin.name),
        revision=pin.revision,
    )
