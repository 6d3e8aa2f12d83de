"""The frozen view of one catalog snapshot, with the indexes that requests are resolved by. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from modelplane.v1 import snapshot_pb2

MODEL_ENTRY = "modelplane.v1.ModelEntry"
ADAPTER_ENTRY = "modelplane.v1.AdapterEntry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Which snapshot: of which store, at which catalog revision, with which root digest (32 bytes)."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """Why one entry is not served although its snapshot is."""

    reason: str
    """UPPER_SNAKE."""
    message: str
    revision_number: int = 0
    """Of the model or adapter revision; 0 when the entry could not be read that far."""


Resource = snapshot_pb2.ModelEntry | snapshot_pb2.AdapterEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One committed snapshot, ready to resolve names in.

    Invariants: every adapter's base is in `models`; `served` holds each model and adapter exactly once; nothing that is
    in `quarantined` is in the other three. The messages in it are shared by all readers and are never written to.
    """

    position: Position
    entries: tuple[RawEntry, ...]
    """All entries, the quarantined ones too, ordered by name: what is kept on disk and relayed."""
    models: Mapping[str, snapshot_pb2.ModelEntry]
    """By resource name."""
    adapters: Mapping[str, snapshot_pb2.AdapterEntry]
    """By resource name."""
    served: Mapping[str, Resource]
    """By served name."""
    quarantined: Mapping[str, Quarantine]
    """By resource name."""


def build(
    position: Position,
    entries: Iterable[RawEntry],
    models: Iterable[snapshot_pb2.ModelEntry],
    adapters: Iterable[snapshot_pb2.AdapterEntry],
    quarantined: Mapping[str, Quarantine],
) -> Snapshot:
    """Put the indexes over entries that `accept` has checked."""
    models_by_name = {model.name: model for model in models}
    adapters_by_name = {adapter.name: adapter for adapter in adapters}
    served: dict[str, Resource] = {model.served_name: model for model in models_by_name.values()}
    served.update((adapter.served_name, adapter) for adapter in adapters_by_name.values())
    return Snapshot(
        position=position,
        entries=tuple(entries),
        models=MappingProxyType(models_by_name),
        adapters=MappingProxyType(adapters_by_name),
        served=MappingProxyType(served),
        quarantined=MappingProxyType(dict(quarantined)),
    )
