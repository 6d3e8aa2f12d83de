"""The frozen view of one catalog snapshot, with the indexes that requests are resolved by. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from broadsheet.v1 import api_key_pb2, snapshot_pb2
from dataplane.snapshot.api_key import ApiKey
from protocol.catalog_digest import CatalogDigest

MODEL_ENTRY = "broadsheet.v1.ModelEntry"
ADAPTER_ENTRY = "broadsheet.v1.AdapterEntry"
ROUTE_ENTRY = "broadsheet.v1.RouteEntry"
MODEL_REVISION_ENTRY = "broadsheet.v1.ModelRevisionEntry"
ADAPTER_REVISION_ENTRY = "broadsheet.v1.AdapterRevisionEntry"
API_KEY_ENTRY = "broadsheet.v1.ApiKeyEntry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Which snapshot: of which store, at which catalog revision, with which root digest (32
    bytes)."""

    store_uid: str
    revision: int
    digest: bytes

    @classmethod
    def from_proto(cls, message: snapshot_pb2.Position) -> Position:
        return cls(store_uid=message.store_uid, revision=message.revision, digest=message.digest)

    def to_proto(self) -> snapshot_pb2.Position:
        return snapshot_pb2.Position(store_uid=self.store_uid, revision=self.revision, digest=self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawEntry:
    """One entry as it was sent and stored: the blob is never serialised again."""

    name: str
    type: str
    digest: bytes
    blob: bytes


def is_api_key(entry: RawEntry) -> bool:
    """Whether an entry is that of a key, also of a kind that a later release made."""
    return entry.type == API_KEY_ENTRY or entry.name.startswith("apiKeys/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """Why one entry is not served although its snapshot is."""

    reason: str
    """UPPER_SNAKE."""
    message: str
    revision_number: int = 0
    """Of the model or adapter revision; 0 when the entry could not be read that far."""


Pin = snapshot_pb2.ModelRevisionEntry | snapshot_pb2.AdapterRevisionEntry
"""A revision that a route pins."""

Resource = snapshot_pb2.ModelEntry | snapshot_pb2.AdapterEntry | snapshot_pb2.RouteEntry
"""What has a served name."""

Versioned = Resource | Pin
"""What is served, by a revision."""

Message = Versioned | api_key_pb2.ApiKeyEntry
"""Everything that an entry may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One committed snapshot, ready to resolve names in.

    Invariants: every adapter's base is in `models`; `served` holds each model, adapter and route
    exactly once; nothing that is in `quarantined` is in the other mappings. What a route refers to
    may be quarantined, and is then missing. The messages in it are shared by all readers and are
    never written to.
    """

    position: Position
    entries: tuple[RawEntry, ...]
    """All entries, the quarantined ones too, ordered by name: what is kept on disk and relayed."""
    digest: CatalogDigest
    """Of `entries`; its root is the position's digest."""
    models: Mapping[str, snapshot_pb2.ModelEntry]
    """By resource name."""
    adapters: Mapping[str, snapshot_pb2.AdapterEntry]
    """By resource name."""
    served: Mapping[str, Resource]
    """By served name."""
    routes: Mapping[str, snapshot_pb2.RouteEntry]
    """By resource name."""
    deployable: Mapping[str, snapshot_pb2.ModelEntry]
    """All that may have a Serve application: `models`, and each revision that is pinned or being
    rolled out as a model of its own, by its resource name `models/{model}/revisions/{number}`."""
    wanted_unasked: tuple[str, ...]
    """Names of those of `deployable` that may be wanted though nobody asks for them: they have
    `min_replicas` of 1 or more, or are or were kept warm."""
    revisions: Mapping[str, tuple[str, ...]]
    """By model: those of `deployable` that are revisions of it. Models without any are not in
    it."""
    pinned_adapters: Mapping[str, snapshot_pb2.AdapterEntry]
    """Each pinned adapter revision as an adapter of its own, by its resource name."""
    quarantined: Mapping[str, Quarantine]
    """By resource name."""
    api_key_entries: Mapping[str, api_key_pb2.ApiKeyEntry]
    """By resource name; those that were revoked too."""
    api_keys: Mapping[bytes, ApiKey]
    """Those that were not revoked, by the hash of the key."""
    has_api_keys: bool
    """Whether there is any entry of a key, of whatever kind: then nobody is let in without one. A
    key that is quarantined or revoked lets nobody in, and must not open the door to everybody."""


def build(
    position: Position,
    entries: Iterable[RawEntry],
    digest: CatalogDigest,
    messages: Iterable[Message],
    quarantined: Mapping[str, Quarantine],
) -> Snapshot:
    """Put the indexes over messages that `accept` has checked and that are to be served."""
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


def model_of(name: str) -> str:
    """The model that a revision or an adapter belongs to, by resource names; that of a model is its
    own."""
    return "/".join(name.split("/", 2)[:2])


def candidate_name(model: snapshot_pb2.ModelEntry) -> str | None:
    """Resource name of the revision that is being rolled out. None: there is none."""
    return f"{model.name}/revisions/{model.candidate.number}" if model.HasField("candidate") else None


def _candidate(name: str, model: snapshot_pb2.ModelEntry) -> snapshot_pb2.ModelEntry:
    entry = snapshot_pb2.ModelEntry(name=name, uid=model.uid, served_name=model.served_name, revision=model.candidate)
    scaling = entry.revision.spec.scaling
    if model.warm_candidate:
        # The same application as with none, but wanted before anybody asks.
        scaling.min_replicas = max(1, scaling.min_replicas)
    return entry


def _pinned_model(
    pin: snapshot_pb2.ModelRevisionEntry, models: Mapping[str, snapshot_pb2.ModelEntry]
) -> snapshot_pb2.ModelEntry:
    model = models.get(pin.model)
    return snapshot_pb2.ModelEntry(
        name=pin.name,
        uid=pin.model_uid,
        # Engines want some name to start with; callers ask by those of routes.
        served_name=model.served_name if model is not None else pin.model.removeprefix("models/"),
        revision=pin.revision,
    )


def _pinned_adapter(pin: snapshot_pb2.AdapterRevisionEntry) -> snapshot_pb2.AdapterEntry:
    return snapshot_pb2.AdapterEntry(
        name=pin.name,
        uid=pin.adapter_uid,
        served_name=pin.name,  # no other adapter's, so that its engine-side name is its own
        model=model_of(pin.name),
        revision=pin.revision,
    )
