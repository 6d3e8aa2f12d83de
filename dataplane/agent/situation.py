"""What the reconciler plans from: an immutable picture of the data plane at one moment. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.agent.giving_up import Failure
from dataplane.agent.resources import Resources
from dataplane.snapshot.activation import Endpoint
from dataplane.snapshot.snapshot import Snapshot


class Phase(enum.Enum):
    """Where an application is in its life, as the reconciler tells it apart."""

    STARTING = "STARTING"
    """Deployed, and no replica has answered yet."""
    RUNNING = "RUNNING"
    """A replica has answered. There may be none right now, while Ray Serve replaces it."""
    FAILED = "FAILED"
    """Given up: it could not start."""
    DELETING = "DELETING"
    """Being deleted, and Ray Serve still lists it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """One Ray Serve application. Times are seconds since the epoch."""

    name: str
    model: str
    """Resource name of its model, also if it was made for a pinned revision of the model."""
    revision_number: int
    """The model revision that it was made for, or that its scaling was last taken from."""
    phase: Phase
    created_at: float
    """When this agent deployed or adopted it."""
    endpoints: tuple[Endpoint, ...] = ()
    """Replicas that requests may be sent to, ordered by replica id."""
    secret: str = field(default="", repr=False)
    """What the endpoints expect in the `authorization: Bearer` header."""
    replica_bounds: bytes = b""
    """Its scaling, in the form of `desired.replica_bounds`."""
    ready_at: float | None = None
    """When a replica of it first answered."""
    in_use: int = 0
    """Requests that it is answering, over all ingress replicas."""
    left_sequence: int = 0
    """Sequence of the first activation that no longer named it; 0 if the latest one still does or
    none ever did."""
    reason: str = ""
    """FAILED: UPPER_SNAKE."""
    message: str = ""
    """FAILED: the engine's words. STARTING: what Ray Serve says it waits for."""
    drain_overdue: bool = False
    """It left the activation longer ago than requests may drain."""
    asleep: bool = False
    """Its replicas were ordered to sleep."""
    all_asleep: bool = False
    """They were ordered to sleep, and all of them do."""
    placed: bool = True
    """Ray has found room for one of its replicas."""
    resources: Resources = field(default_factory=dict)
    """What one replica takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Since when a model or pinned revision is asked for, and by whom."""

    since: float
    """Seconds since the epoch."""
    callers: frozenset[str] = frozenset()
    """Whose requests waited for it last; empty: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLimits:
    """How many starts that requests have caused may be under way at once."""

    total: int = 16
    """On this data plane."""
    per_caller: int = 8
    """Of those, caused by one caller: an API key, or an address without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything that a plan is made from. Times are seconds since the epoch."""

    now: float
    """On the agent's own clock, which never steps (`steady_clock`). So are all times below."""
    time_of_day: float
    """The same moment on the machine's clock, which may be set right at any time."""
    snapshot: Snapshot
    applications: Mapping[str, Application]
    """By name."""
    serving: Mapping[str, str]
    """By model or pinned revision: the application that the latest activation sends requests to."""
    in_flight: Mapping[str, int]
    """By model or pinned revision: requests held or forwarded, over all ingress replicas."""
    last_activity: Mapping[str, float]
    """By model or pinned revision: when it was last requested or woken."""
    asked: Mapping[str, Asked] = field(default_factory=dict)
    """By model or pinned revision; those in `last_activity`."""
    failures: Mapping[str, Failure]
    """By application name."""
    ingress_sequence: int | None
    """The oldest activation in use by an ingress replica; None if there is no ingress replica."""
    free: Resources = field(default_factory=dict)
    """Resources of the cluster that are free. Only read while an application sleeps."""
    start_limits: StartLimits = field(default_factory=StartLimits)
