"""What is written on the board: the messages between agent, ingress replicas and engine replicas.
Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from dataplane.snapshot.validation import ValidationResult

SNAPSHOT_KEY = "snapshot"
ACTIVATION_KEY = "activation"
APPLICATION_PREFIX = "application/"
WAKE_PREFIX = "wake/"
INGRESS_PREFIX = "ingress/"
ENGINE_PREFIX = "engine/"
FAILURE_PREFIX = "failure/"
ADAPTERS_PREFIX = "adapters/"
LIMITS_PREFIX = "limits/"
PLACED_PREFIX = "placed/"
REST_PREFIX = "rest/"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPost:
    """The active snapshot as bytes; every reader makes its own view of it with `accept`.

    The entries are in columns: on the way from the agent to each ingress replica they are pickled
    twice, which takes five times as long of entries as objects.
    """

    position: Position
    names: tuple[str, ...]
    types: tuple[str, ...]
    digests: tuple[bytes, ...]
    blobs: tuple[bytes, ...]
    validation: ValidationResult

    @classmethod
    def of(cls, snapshot: Snapshot, validation: ValidationResult) -> SnapshotPost:
        entries = snapshot.entries
        return cls(
            position=snapshot.position,
            names=tuple(entry.name for entry in entries),
            types=tuple(entry.type for entry in entries),
            digests=tuple(entry.digest for entry in entries),
            blobs=tuple(entry.blob for entry in entries),
            validation=validation,
        )

    def entries(self) -> tuple[RawEntry, ...]:
        """The entries of the snapshot, ordered by name, not checked."""
        columns = zip(self.names, self.types, self.digests, self.blobs, strict=True)
        return tuple(RawEntry(name=name, type=type_, digest=digest, blob=blob) for name, type_, digest, blob in columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationRecord:
    """A Ray Serve application that the agent made: what it needs to know to adopt it after a
    restart."""

    name: str
    model: str
    """Resource name of the model."""
    revision_number: int
    entry: bytes = field(repr=False)
    """The serialised ModelEntry that it was made from; a scaling-only change replaces it."""
    replica_bounds: bytes = field(repr=False)
    """What the reconciler compares to see that the scaling has changed."""
    secret: str = field(repr=False)
    """What the replicas want in the `authorization: Bearer` header."""
    created_at: float
    """Seconds since the epoch."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """What one replica takes, by Ray's names: `CPU`, `GPU`, `memory` in bytes; what it takes none
    of is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstByte:
    """How long the first request that waited for a replica waited for its answer."""

    replica_id: str
    """Who answered it: which start it was."""
    seconds: float
    """From its arrival to the first byte of its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsageReport:
    """What one ingress replica sees of one model."""

    in_flight: int
    """Requests that it is holding or forwarding now."""
    last_request_at: float
    """On the ingress replica's own clock: only a change of it means anything."""
    first_byte: FirstByte | None = None
    """Of a request that waited for the model to start, the last time that one did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressReport:
    """What one ingress replica holds and does."""

    position: Position | None
    """The snapshot that it decides by."""
    activation_sequence: int
    """The activation that it decides by."""
    models: Mapping[str, ModelUsageReport]
    """By resource name; models with no recent request are left out."""
    applications: Mapping[str, int]
    """Requests in flight per application; those with none are left out."""
    reported_at: float
    """Seconds since the epoch; a report that is not renewed is from a replica that is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What one engine replica is: renewed while it lives, removed first when it is asked to
    stop."""

    url: str
    """`http://{host}:{port}`."""
    in_flight: int
    """Requests in the engine."""
    adapters: tuple[str, ...]
    """Engine-side names of the adapters that are loaded."""
    failed_adapters: Mapping[str, str]
    """Why an adapter could not be loaded, by engine-side name."""
    reported_at: float
    """Seconds since the epoch."""
    start_s: float
    """How long the engine took to start."""
    weights_s: float | None
    """How long it read its weights; None: it did not say."""
    rest: Rest
    """What it has done last of what it was told."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Whether the replicas of an application are to sleep."""

    sequence: int = 0
    """Counts up with each change of mind; 0: nothing was ever said."""
    asleep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFailure:
    """Why an engine replica could not start."""

    reason: str
    """UPPER_SNAKE."""
    message: str
    """The engine's own words."""
    failed_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAdapters:
    """The adapters of an application's model that are in the catalog."""

    catalog_revision: int
    names: frozenset[str]
    """Engine-side names."""
