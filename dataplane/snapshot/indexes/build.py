"""Builds the indexes of a snapshot over its checked messages. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TypeVar

from broadsheet.v1 import api_key_pb2, snapshot_pb2
from dataplane.snapshot.api_key import ApiKey
from dataplane.snapshot.indexes.derived import candidate_model, is_wanted_unasked, pinned_adapter, pinned_model
from dataplane.snapshot.persistent.sorted_map import SortedMap
from dataplane.snapshot.quarantine import Quarantine
from dataplane.snapshot.references import hidden_references
from dataplane.snapshot.snapshot import (
    Entries,
    Message,
    Pin,
    Position,
    RawEntry,
    Resource,
    Snapshot,
    age_key,
    candidate_name,
    is_api_key,
    model_of,
)
from protocol.catalog_digest import CatalogDigest
from protocol.snapshot_limits import entry_bytes

_Named = TypeVar(
    "_Named", snapshot_pb2.ModelEntry, snapshot_pb2.AdapterEntry, snapshot_pb2.RouteEntry, api_key_pb2.ApiKeyEntry
)


def build(
    position: Position,
    entries: Iterable[RawEntry],
    digest: CatalogDigest,
    messages: Iterable[Message],
    quarantined: Mapping[str, Quarantine],
    withheld: Iterable[Message] = (),
    signed_head: bytes = b"",
) -> Snapshot:
    """Build a snapshot from messages that `accept` has checked.

    Args:
        position: Of the snapshot.
        entries: All of them.
        digest: Of the entries.
        messages: Those that are to be served.
        quarantined: Why others are not, by resource name.
        withheld: The messages of those that could be decoded.
        signed_head: The serialised SignedHead that it came with. Empty: none did.
    """
    entries, messages, withheld = tuple(entries), tuple(messages), tuple(withheld)
    models = _named(messages, snapshot_pb2.ModelEntry)
    adapters = _named(messages, snapshot_pb2.AdapterEntry)
    routes = _named(messages, snapshot_pb2.RouteEntry)
    keys = _named(messages, api_key_pb2.ApiKeyEntry)
    pins = [message for message in messages if isinstance(message, Pin)]
    deployable = _deployable(models, pins, quarantined)
    live_keys = sorted((key.key_hash, key.name) for key in keys.values() if not key.revoked)
    resources: Iterable[Resource] = chain(models.values(), adapters.values(), routes.values())
    return Snapshot(
        position=position,
        entries=Entries.of(entries),
        size_bytes=sum(entry_bytes(entry.name, entry.type, len(entry.blob)) for entry in entries),
        digest=digest,
        models=SortedMap.of(models),
        adapters=SortedMap.of(adapters),
        adapters_by_age=SortedMap.of((age_key(adapter), adapter) for adapter in adapters.values()),
        served=SortedMap.of((resource.served_name, resource) for resource in resources),
        routes=SortedMap.of(routes),
        deployable=SortedMap.of(deployable),
        wanted_unasked=SortedMap.of((name, entry) for name, entry in deployable.items() if is_wanted_unasked(entry)),
        revisions=SortedMap.of(_revisions(deployable.keys() - models.keys())),
        pinned_adapters=SortedMap.of(
            (pin.name, pinned_adapter(pin)) for pin in pins if isinstance(pin, snapshot_pb2.AdapterRevisionEntry)
        ),
        quarantined=SortedMap.of(quarantined),
        api_key_entries=SortedMap.of(keys),
        api_keys=SortedMap.of((key_hash, ApiKey.of(keys[name])) for key_hash, name in live_keys),
        key_names=SortedMap.of((key, None) for key in live_keys),
        key_entry_count=max(len(keys), sum(map(is_api_key, entries))),
        quarantined_served_names=SortedMap.of(
            (message.served_name, message.name)
            for message in withheld
            if isinstance(message, Resource) and message.served_name
        ),
        references=SortedMap.of(
            ((name, message.name), None) for message in chain(messages, withheld) for name in hidden_references(message)
        ),
        signed_head=signed_head,
    )


def _named(messages: Iterable[Message], kind: type[_Named]) -> dict[str, _Named]:
    return {message.name: message for message in messages if isinstance(message, kind)}


def _deployable(
    models: Mapping[str, snapshot_pb2.ModelEntry], pins: Iterable[Pin], quarantined: Mapping[str, Quarantine]
) -> dict[str, snapshot_pb2.ModelEntry]:
    found = dict(models)
    for pin in pins:
        if isinstance(pin, snapshot_pb2.ModelRevisionEntry):
            found[pin.name] = pinned_model(pin, models.get(pin.model))
    for model in models.values():
        name = candidate_name(model)
        if name is not None and name not in quarantined:
            found[name] = candidate_model(name, model)
    return found


def _revisions(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in sorted(names):
        model = model_of(name)
        found[model] = (*found.get(model, ()), name)
    return found
