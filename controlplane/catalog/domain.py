"""What the control plane reasons about. Pure: no I/O, no clock, no randomness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from broadsheet.v1 import adapter_pb2, model_pb2, rollout_pb2, snapshot_service_pb2
from protocol import names

DELETED_RETENTION = timedelta(days=30)
"""How long a deleted resource can be undeleted, unless the operator says otherwise. AIP-164 names
30 days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Which snapshot: of which store, at which catalog revision, with which root digest."""

    store_uid: str
    """Identity of the store; one restored from a backup has another."""
    revision: int
    """Catalog revision; 0 is the empty catalog of a new store."""
    digest: bytes
    """Root digest, 32 bytes; `protocol.catalog_digest` says how it is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The newest committed snapshot."""

    position: Position
    entry_count: int
    """Entries of the whole snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a snapshot, as it is stored and sent: the blob is never serialised again."""

    name: str
    """Resource name; unique within a snapshot."""
    type: str
    """Full name of the message in the blob."""
    digest: bytes
    """SHA-256 of the blob, 32 bytes."""
    blob: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlaneRecord:
    """What is kept of a data plane across restarts of the control plane."""

    id: str
    instance_uid: str
    """Differs for each start of its agent."""
    serving: Position | None
    """The snapshot that it serves; None: none."""
    target: Position | None
    """The snapshot that it last said something about; None: none yet."""
    phase: snapshot_service_pb2.Phase.ValueType
    """How far it got with `target`."""
    reason: str
    """UPPER_SNAKE reason of a rejection of `target`; else empty."""
    message: str
    """The same in words."""
    http_address: str
    """Where its OpenAI API is. For people to read."""
    software_version: str
    connect_time: datetime
    """When its present or last stream began (UTC, aware)."""
    last_seen_time: datetime
    """When something was last heard from it (UTC, aware)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """How a catalog revision came about."""

    head: Head
    create_time: datetime
    method: str
    """The method that made it, such as `RegisterModel`; empty for revision 0."""
    resource: str
    """The resource that it changed; empty for revision 0."""


REPLACE = rollout_pb2.RolloutPolicy(strategy=rollout_pb2.RolloutPolicy.STRATEGY_REPLACE)
"""The policy of a model that states none. Shared, and never written to."""

# The messages inside the records below are shared by all who hold the record, and are never written
# to.


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRevision:
    """One immutable spec and card of a model."""

    number: int
    """Counts the revisions of the model from 1."""
    spec: model_pb2.ModelSpec
    """With every default filled in."""
    card: model_pb2.ModelCard
    create_time: datetime
    catalog_revision: int
    """The one that brought it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A language model under a stable identity."""

    id: str
    uid: str
    """Identity for its whole life; one that is deleted and registered again has another."""
    served_name: str
    labels: Mapping[str, str]
    revision: ModelRevision
    """The newest. Data planes are told to serve it, but for what `stable` has."""
    create_time: datetime
    update_time: datetime
    catalog_revision: int
    """That of the last change."""
    rollout_policy: rollout_pb2.RolloutPolicy = field(default_factory=lambda: REPLACE)
    """How a change of the spec gets to the callers, with every default filled in."""
    rollout: rollout_pb2.Rollout | None = None
    """That of the newest revision, under way or ended. None: it was simply put in place."""
    stable: ModelRevision | None = None
    """While a rollout is under way: the revision that has the rest of the requests."""
    warm_until: datetime | None = None
    """Until when data planes keep it started although nobody asks for it (UTC, aware). None or
    past: they do not."""
    delete_time: datetime | None = None
    """When it was deleted. None: it is not."""
    purge_time: datetime | None = None
    """When a deleted one is gone for good."""

    @property
    def name(self) -> str:
        """Resource name."""
        return names.model_name(self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRevision:
    """One immutable set of adapter files."""

    number: int
    """Counts the revisions of the adapter from 1."""
    source: model_pb2.Source
    weights: adapter_pb2.AdapterWeights
    card: adapter_pb2.AdapterCard
    create_time: datetime
    catalog_revision: int
    """The one that brought it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter of one model."""

    model_id: str
    id: str
    uid: str
    """Identity for its whole life."""
    served_name: str
    labels: Mapping[str, str]
    revision: AdapterRevision
    """The one that data planes are told to serve: the newest."""
    create_time: datetime
    update_time: datetime
    catalog_revision: int
    """That of the last change."""
    delete_time: datetime | None = None
    """When it was deleted. None: it is not."""
    purge_time: datetime | None = None
    """When a deleted one is gone for good."""

    @property
    def name(self) -> str:
        """Resource name."""
        return names.adapter_name(self.model_id, self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What a change is marked with, given from outside: the core draws nothing and reads no
    clock."""

    uid: str
    """For a resource that is new."""
    now: datetime
    catalog_revision: int
    """The one that the change will have."""
    deleted_retention: timedelta = DELETED_RETENTION
    """How long what the change deletes can be undeleted."""

    @property
    def purge_time(self) -> datetime:
        """When what the change deletes is gone for good."""
        return self.now + self.deleted_retention
