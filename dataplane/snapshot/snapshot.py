"""One catalog snapshot as a data plane holds it: entries, messages and indexes. Pure.

Entries and indexes are persistent: the snapshot after a change shares what has not changed with the
one before. `persistent.sorted_map` says what each operation costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from broadsheet.v1 import api_key_pb2, snapshot_pb2
from dataplane.snapshot.api_key import ApiKey
from dataplane.snapshot.persistent.sorted_map import SortedMap
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


class Entries(Sequence[RawEntry]):
    """All entries of a snapshot, ordered by name, and found by name."""

    __slots__ = ("by_name",)

    def __init__(self, by_name: SortedMap[str, RawEntry]) -> None:
        """
        Args:
            by_name: The entries by their own names.
        """
        self.by_name = by_name

    @classmethod
    def of(cls, entries: Iterable[RawEntry]) -> Entries:
        """These entries, in any order."""
        return cls(SortedMap.of((entry.name, entry) for entry in entries))

    def __len__(self) -> int:
        return len(self.by_name)

    def __iter__(self) -> Iterator[RawEntry]:
        return iter(self.by_name.values())

    @overload
    def __getitem__(self, index: int) -> RawEntry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RawEntry, ...]: ...
    def __getitem__(self, index: int | slice) -> RawEntry | tuple[RawEntry, ...]:
        """One entry, in time proportional to the number of blocks; a slice walks over all."""
        if isinstance(index, slice):
            return tuple(self)[index]
        return self.by_name.value_at(index + len(self) if index < 0 else index)

    def __eq__(self, other: object) -> bool:
        """Whether `other` is a sequence of the same entries: a tuple, or `Entries`."""
        if isinstance(other, Entries):
            return self.by_name == other.by_name
        return isinstance(other, tuple) and tuple(self) == other

    __hash__ = None  # type: ignore[assignment]  # nothing needs it, and it would cost all entries

    def __repr__(self) -> str:
        return f"Entries({tuple(self)!r})"

    def get(self, name: str) -> RawEntry | None:
        """The entry of this name; None: there is none."""
        return self.by_name.get(name)

    def below(self, name: str) -> Iterator[RawEntry]:
        """The entries whose names begin with `{name}/`, in order."""
        prefix = f"{name}/"
        for found, entry in self.by_name.items_from(prefix):
            if not found.startswith(prefix):
                return
            yield entry


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
    entries: Entries
    """All entries, including quarantined ones, ordered by name: the content on disk and relayed."""
    size_bytes: int
    """Of names, types and blobs of all entries, by `entry_bytes`."""
    digest: CatalogDigest
    """Of `entries`; its root is the position's digest."""
    models: SortedMap[str, snapshot_pb2.ModelEntry]
    """By resource name."""
    adapters: SortedMap[str, snapshot_pb2.AdapterEntry]
    """By resource name."""
    adapters_by_age: SortedMap[tuple[str, int, str], snapshot_pb2.AdapterEntry]
    """The same by model, catalog revision of their last change, and resource name."""
    served: SortedMap[str, Resource]
    """By served name."""
    routes: SortedMap[str, snapshot_pb2.RouteEntry]
    """By resource name."""
    deployable: SortedMap[str, snapshot_pb2.ModelEntry]
    """Everything that may have a Serve application, by resource name: `models`, and every revision
    that is pinned or being rolled out, as a model named `models/{model}/revisions/{number}`."""
    wanted_unasked: SortedMap[str, snapshot_pb2.ModelEntry]
    """Those in `deployable` that may be wanted without a request: their `min_replicas` is 1 or
    more, or `warm_until` is set."""
    revisions: SortedMap[str, tuple[str, ...]]
    """Names in `deployable` that are revisions, by model. Models without one are left out."""
    pinned_adapters: SortedMap[str, snapshot_pb2.AdapterEntry]
    """Every pinned adapter revision as an adapter of its own, by its resource name."""
    quarantined: SortedMap[str, Quarantine]
    """By resource name."""
    api_key_entries: SortedMap[str, api_key_pb2.ApiKeyEntry]
    """By resource name, including revoked keys."""
    api_keys: SortedMap[bytes, ApiKey]
    """Keys that are not revoked, by the hash of the key. Of several with the same hash, the last by
    name."""
    key_names: SortedMap[tuple[bytes, str], None]
    """Hash and resource name of each key that is not revoked."""
    key_entry_count: int
    """API key entries of any type, quarantined and revoked ones included."""
    quarantined_served_names: SortedMap[str, str]
    """By served name: the quarantined entry that has it. No other entry may have it either."""
    references: SortedMap[tuple[str, str], None]
    """Referenced name and name of the entry, quarantined or not, for each reference that the name
    of the entry does not show. The adapters and pins of a model are found by their names."""
    signed_head: bytes = b""
    """The serialised SignedHead that it came with. Empty: the control plane does not sign."""

    @property
    def has_api_keys(self) -> bool:
        """Whether there is any API key entry, of any type. If so, every caller needs a key.

        Quarantined and revoked keys count: revoking the last key must not admit everybody.
        """
        return self.key_entry_count > 0

    def message_of(self, name: str) -> Message | None:
        """The message of an entry that is served.

        None for quarantined entries and pins. Both are few, and are decoded again when needed.
        """
        return (
            self.adapters.get(name) or self.models.get(name) or self.routes.get(name) or self.api_key_entries.get(name)
        )


def age_key(adapter: snapshot_pb2.AdapterEntry) -> tuple[str, int, str]:
    """The key of an adapter in `Snapshot.adapters_by_age`."""
    return adapter.model, adapter.revision.catalog_revision, adapter.name


def model_of(name: str) -> str:
    """Resource name of the model that a model, revision or adapter belongs to."""
    return "/".join(name.split("/", 2)[:2])


def candidate_name(model: snapshot_pb2.ModelEntry) -> str | None:
    """Resource name of the revision that is being rolled out; None if there is none."""
    return f"{model.name}/revisions/{model.candidate.number}" if model.HasField("candidate") else None
