"""What goes through the relay: the values of its topics, and the messages to the agent. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.snapshot.position_check import is_behind
from dataplane.snapshot.revocations.revoked_keys import NOTHING_REVOKED, RevocationsPosition
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from dataplane.snapshot.validation import ValidationResult

# --- values of topics -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SerializedSnapshot:
    """The active snapshot as bytes. Every reader makes its own view of it with `accept`.

    The entries are in columns, because pickling them as objects takes five times as long.
    """

    position: Position
    names: tuple[str, ...]
    types: tuple[str, ...]
    digests: tuple[bytes, ...]
    blobs: tuple[bytes, ...]
    validation: ValidationResult
    withdrawn: frozenset[Position] = frozenset()
    """Snapshots that the agent has taken out of service, because it crashed on them."""
    signed_head: bytes = b""
    """The serialised SignedHead that it came with, for the next agent. Ingress replicas do not
    verify it: the agent has, and who can write to the relay could also replace the replicas."""

    @classmethod
    def of(
        cls, snapshot: Snapshot, validation: ValidationResult, *, withdrawn: frozenset[Position] = frozenset()
    ) -> SerializedSnapshot:
        """The entries of `snapshot`, what its validation has found, and what it replaces."""
        entries = snapshot.entries
        return cls(
            position=snapshot.position,
            names=tuple(entry.name for entry in entries),
            types=tuple(entry.type for entry in entries),
            digests=tuple(entry.digest for entry in entries),
            blobs=tuple(entry.blob for entry in entries),
            validation=validation,
            withdrawn=withdrawn,
            signed_head=snapshot.signed_head,
        )

    def replaces(self, held: Position | None) -> bool:
        """Whether a reader that holds `held` takes this one over.

        It does not go back to an older one, unless the agent has withdrawn what it holds: an agent
        that lost what it had not kept on disk must not bring back what was revoked since.
        """
        return replaces(self.position, self.withdrawn, held)

    def entries(self) -> tuple[RawEntry, ...]:
        """The entries of the snapshot, ordered by name, not checked."""
        columns = zip(self.names, self.types, self.digests, self.blobs, strict=True)
        return tuple(RawEntry(name=name, type=type_, digest=digest, blob=blob) for name, type_, digest, blob in columns)


def replaces(position: Position, withdrawn: frozenset[Position], held: Position | None) -> bool:
    """Whether a reader that holds `held` takes over the snapshot at `position`.

    Args:
        position: Of the snapshot that is passed on.
        withdrawn: Snapshots that it replaces although they are newer.
        held: What the reader holds; None: nothing.
    """
    if held is None:
        return True
    return position != held and (held in withdrawn or not is_behind(position, held))


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationRecord:
    """A Ray Serve application of a model: what a new agent needs to take it over."""

    name: str
    model: str
    """Resource name of the model."""
    revision_number: int
    entry: bytes = field(repr=False)
    """The serialised ModelEntry that it was deployed from. A change of scaling replaces it."""
    replica_bounds: bytes = field(repr=False)
    """The reconciler compares it to detect a change of scaling."""
    secret: str = field(repr=False)
    """What its replicas require in the `authorization: Bearer` header."""
    created_at: float
    """Seconds since the epoch, on the clock of the agent that made it."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """What one replica takes, by Ray's names: `CPU`, `GPU`, `memory` in bytes; no zeros."""
    placed: bool = False
    """A replica of it has begun to start, so Ray has found room for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstByte:
    """How long the first request that waited for a replica waited for its answer."""

    replica_id: str
    """The replica that answered it. It identifies the start."""
    seconds: float
    """From the request's arrival to the first byte of its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsageReport:
    """How one ingress replica uses one model."""

    in_flight: int
    """Requests that it holds or forwards now."""
    idle_s: float
    """How long before the report a request last arrived or ended, in seconds. A span and not a
    time of day, because the agent's clock may differ."""
    waiting_callers: frozenset[str] = frozenset()
    """Whose requests wait for the model to start."""
    first_byte: FirstByte | None = None
    """Of the last request that waited for the model to start; None: there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressReport:
    """What one ingress replica has and does. It is renewed once a second."""

    position: Position | None
    """The snapshot that it routes by; None: it has none yet."""
    activation_sequence: int
    """The activation that it routes by."""
    models: Mapping[str, ModelUsageReport]
    """By resource name. Models without a recent request are left out."""
    applications: Mapping[str, int]
    """Requests in flight per application. Applications with none are left out."""
    reported_at: float
    """On the replica's own monotonic clock, so only a change of it is meaningful. A report that is
    not renewed is from a replica that is gone."""
    revocations: RevocationsPosition = NOTHING_REVOKED
    """The revocations of API keys that it applies, whatever its snapshot says."""
    requests: int = 0
    """Requests that it has answered since its start, as `dataplane.ingress.traffic` counts them."""
    failures: int = 0
    """Those of them that failed."""


@dataclass(frozen=True, slots=True)
class SleepOrder:
    """Whether the replicas of an application have to sleep."""

    sequence: int = 0
    """Rises with each order; 0: there was none."""
    asleep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What one engine replica has and does.

    It is renewed every two seconds, and removed when the replica is asked to stop.
    """

    url: str
    """`http://{host}:{port}`, or `https` if it has a certificate."""
    in_flight: int
    """Requests in the engine."""
    adapters: tuple[str, ...]
    """Engine-side names of the loaded adapters."""
    failed_adapters: Mapping[str, str]
    """Why an adapter could not be loaded, by engine-side name."""
    reported_at: float
    """On the replica's own monotonic clock, so only a change of it is meaningful."""
    start_s: float
    """How long the engine took to start, in seconds."""
    weights_s: float | None
    """How long it read its weights, in seconds; None: unknown."""
    sleep_order: SleepOrder
    """The last order that it has carried out."""
    model: str
    """Resource name of its model."""
    adapters_tried: int
    """It has tried to load the adapters that were new up to this catalog revision. 0: it has got no
    list of adapters yet."""
    further_urls: tuple[str, ...] = ()
    """Of its further front-end processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAdapters:
    """What the catalog says of the adapters of an application's model."""

    catalog_revision: int
    left: frozenset[str] = frozenset()
    """Engine-side names of the adapters that its replicas have reported, and that are not in the
    catalog. All that are would be too many: a model may have 100,000."""
    newest: tuple[str, ...] = ()
    """The latest changed in it, from the latest on: entries as in `wire.ADAPTER_HEADER`."""


# --- messages to the agent ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """A request has come for a model that has no replica."""

    model: str
    """Resource name of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPlaced:
    """An engine replica has begun to start: Ray has found room for it."""

    application: str
    replica_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFailure:
    """An engine replica could not start."""

    application: str
    replica_id: str
    reason: str
    """UPPER_SNAKE."""
    message: str
    """The engine's own words."""


Message = Wake | ReplicaPlaced | StartFailure
"""What ingress and engine replicas send to the agent."""
