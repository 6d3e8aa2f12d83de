"""The records of the catalog: models, adapters, snapshots, commits. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from broadsheet.v1 import adapter_pb2, model_pb2, rollout_pb2, snapshot_service_pb2
from protocol import names

DELETED_RETENTION = timedelta(days=30)
"""How long a deleted resource can be undeleted, by default. AIP-164 recommends 30 days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Identifies a snapshot: its store, catalog revision and root digest."""

    store_uid: str
    """Identity of the store. A store restored from a backup gets a new one."""
    revision: int
    """Catalog revision; 0 is the empty catalog of a new store."""
    digest: bytes
    """Root digest, 32 bytes. `protocol.catalog_digest` computes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The newest committed snapshot."""

    position: Position
    entry_count: int
    """Entries in the whole snapshot."""
    revocations_sequence: int = 0
    """The newest revocation of an API key at that time, by sequence. 0: none."""
    commit_time: datetime | None = None
    """When it was committed, as stored. None: not read, because nobody is told of this head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry of a snapshot. The blob is stored and sent as it is, never serialised again."""

    name: str
    """Resource name; unique within a snapshot."""
    type: str
    """Full name of the message in the blob."""
    digest: bytes
    """SHA-256 of the blob, 32 bytes."""
    blob: bytes


class Identity(enum.StrEnum):
    """How sure it is that a data plane is the one that it says it is."""

    BOUND = "bound"
    """Its credential is for this data plane only."""
    LOCAL = "local"
    """It has the token that a control plane made for its own machine."""
    SHARED = "shared"
    """Whoever has its credential can speak for other data planes, too."""

    @property
    def votes(self) -> bool:
        """Whether rollouts go by what the data plane reports. An id that anybody could have made up
        must not revert them."""
        return self is not Identity.SHARED


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlaneRecord:
    """What is stored of a data plane, so that it survives restarts of the control plane."""

    id: str
    instance_uid: str
    """A new one for each start of its agent."""
    serving: Position | None
    """The snapshot that it serves, if any."""
    target: Position | None
    """The snapshot of its last status. None: no status yet."""
    phase: snapshot_service_pb2.Phase.ValueType
    """How far it got with `target`."""
    reason: str
    """UPPER_SNAKE reason why it rejected `target`. Else empty."""
    message: str
    """The same in words."""
    http_address: str
    """Address of its OpenAI API, for people to read."""
    software_version: str
    connect_time: datetime
    """When its current or latest stream began (UTC, aware)."""
    last_seen_time: datetime
    """When its last message arrived (UTC, aware)."""
    identity: Identity = Identity.SHARED
    """How sure the identity of its current or latest stream is."""
    revocations_sequence: int = 0
    """The newest revocation that it applies, by sequence. 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A catalog revision, and the method that made it."""

    head: Head
    create_time: datetime
    method: str
    """The method that made it, such as `RegisterModel`. Empty for revision 0."""
    resource: str
    """Resource name that the method was called with. Empty for revision 0."""
    size_bytes: int | None
    """Bytes of the snapshot's entries, as `protocol.snapshot_limits` counts them. None: a release
    made it that did not count them."""


REPLACE = rollout_pb2.RolloutPolicy(strategy=rollout_pb2.RolloutPolicy.STRATEGY_REPLACE)
"""The policy of a model that states none. Must not be changed."""

# All holders of the records below share the messages inside. Those must not be changed.


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
    """The catalog revision that added it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A language model under a stable identity."""

    id: str
    uid: str
    """Identity for its whole life. Registering it again after a purge makes a new one."""
    served_name: str
    labels: Mapping[str, str]
    revision: ModelRevision
    """The newest. Data planes serve it, except for the requests that `stable` gets."""
    create_time: datetime
    update_time: datetime
    catalog_revision: int
    """The catalog revision of the last change."""
    rollout_policy: rollout_pb2.RolloutPolicy = field(default_factory=lambda: REPLACE)
    """How a changed spec is rolled out, with every default filled in."""
    rollout: rollout_pb2.Rollout | None = None
    """The rollout of the newest revision, under way or ended. None: it had no rollout."""
    stable: ModelRevision | None = None
    """While a rollout is under way: the revision that gets the other requests."""
    warm_until: datetime | None = None
    """Until when data planes keep it started without requests (UTC, aware). None or a past time:
    they do not."""
    delete_time: datetime | None = None
    """When it was deleted; None if it is not deleted."""
    purge_time: datetime | None = None
    """When a deleted one is purged for good."""

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
    """The catalog revision that added it."""


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
    """The newest, which data planes serve."""
    create_time: datetime
    update_time: datetime
    catalog_revision: int
    """The catalog revision of the last change."""
    delete_time: datetime | None = None
    """When it was deleted; None if it is not deleted."""
    purge_time: datetime | None = None
    """When a deleted one is purged for good."""

    @property
    def name(self) -> str:
        """Resource name."""
        return names.adapter_name(self.model_id, self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Time, uid and revision of a change. The caller gives them, since the catalog is pure."""

    uid: str
    """The uid of a resource that the change creates."""
    now: datetime
    catalog_revision: int
    """The revision that the change makes."""
    deleted_retention: timedelta = DELETED_RETENTION
    """How long a resource that the change deletes can be undeleted."""

    @property
    def purge_time(self) -> datetime:
        """When a resource that the change deletes is purged."""
        return self.now + self.deleted_retention
