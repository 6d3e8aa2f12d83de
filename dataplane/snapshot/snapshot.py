"""One catalog snapshot as a data plane holds it: entries, messages and indexes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broadsheet.v1 import api_key_pb2, snapshot_pb2
from dataplane.snapshot.api_key import ApiKey
from dataplane.snapshot.quarantine import Quarantine
from protocol.catalog_digest import CatalogDigest

MODEL_ENTRY = "broadsheet.v1.ModelEntry"
ADAPTER_ENTRY = "broadsheet.v1.AdapterEntry"
ROUTE_ENTRY = "broadsheet.v1.RouteEntry"
MODEL_REVISION_ENTRY = "broadsheet.v1.ModelRevisionEntry"
ADAPTER_REVISION_ENTRY = "broadsheet.v1.AdapterRevisionEntry"
API_KEY_ENTRY = "broadsheet.v1.ApiKeyEntry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Identifies a snapshot."""

    store_uid: str
    """Of the control plane's store."""
    revision: int
    """Catalog revision."""
    digest: bytes
    """Root digest of the entries, 32 bytes."""

    @classmethod
    def from_proto(cls, message: snapshot_pb2.Position) -> Position:
        return cls(store_uid=message.store_uid, revision=message.revision, digest=message.digest)

    def to_proto(self) -> snapshot_pb2.Position:
        return snapshot_pb2.Position(store_uid=self.store_uid, revision=self.revision, digest=self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawEntry:
    """One entry as it was sent and stored. The blob is never serialised again."""

    name: str
    type: str
    digest: bytes
    blob: bytes


def is_api_key(entry: RawEntry) -> bool:
    """Whether an entry is an API key, including types of later releases."""
    return entry.type == API_KEY_ENTRY or entry.name.startswith("apiKeys/")


Pin = snapshot_pb2.ModelRevisionEntry | snapshot_pb2.AdapterRevisionEntry
"""A revision that a route pins to."""

Resource = snapshot_pb2.ModelEntry | snapshot_pb2.AdapterEntry | snapshot_pb2.RouteEntry
"""An entry with a served name."""

Versioned = Resource | Pin
"""An entry with a revision."""

Message = Versioned | api_key_pb2.ApiKeyEntry
"""Every message that an entry may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One committed snapshot, ready to resolve names in.

    Invariants: every adapter's base is in `models`; `served` holds each model, adapter and route
    exactly once; no quarantined entry is in another mapping. A target of a route may be
    quarantined, and is then absent. Readers share the messages and never modify them.
    """

    position: Position
    entries: tuple[RawEntry, ...]
    """All entries, including quarantined ones, ordered by name: the content on disk and relayed."""
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
    """Everything that may have a Serve application, by resource name: `models`, and every revision
    that is pinned or being rolled out, as a model named `models/{model}/revisions/{number}`."""
    wanted_unasked: tuple[str, ...]
    """Names in `deployable` that may be wanted without a request: their `min_replicas` is 1 or
    more, or `warm_until` is set."""
    revisions: Mapping[str, tuple[str, ...]]
    """Names in `deployable` that are revisions, by model. Models without one are left out."""
    pinned_adapters: Mapping[str, snapshot_pb2.AdapterEntry]
    """Every pinned adapter revision as an adapter of its own, by its resource name."""
    quarantined: Mapping[str, Quarantine]
    """By resource name."""
    api_key_entries: Mapping[str, api_key_pb2.ApiKeyEntry]
    """By resource name, including revoked keys."""
    api_keys: Mapping[bytes, ApiKey]
    """Keys that are not revoked, by the hash of the key."""
    has_api_keys: bool
    """Whether there is any API key entry, of any type. If so, every caller needs a key. Quarantined
    and revoked keys count: revoking the last key must not admit everybody."""
    signed_head: bytes = b""
    """The serialised SignedHead that it came with. Empty: the control plane does not sign."""


def model_of(name: str) -> str:
    """Resource name of the model that a model, revision or adapter belongs to."""
    return "/".join(name.split("/", 2)[:2])


def candidate_name(model: snapshot_pb2.ModelEntry) -> str | None:
    """Resource name of the revision that is being rolled out; None if there is none."""
    return f"{model.name}/revisions/{model.candidate.number}" if model.HasField("candidate") else None
