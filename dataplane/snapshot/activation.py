"""What this data plane has made of a snapshot: for each model its state and where its replicas
answer. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.snapshot.snapshot import Snapshot


class State(enum.Enum):
    """States of a model or adapter; the same as `broadsheet.v1.ResourceState`, where they are
    explained."""

    DEPLOYING = "DEPLOYING"
    READY = "READY"
    IDLE = "IDLE"
    DEGRADED = "DEGRADED"
    FAILED = "FAILED"
    DRAINING = "DRAINING"
    QUARANTINED = "QUARANTINED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One engine replica that answers HTTP."""

    replica_id: str
    """Ray Serve's id of the replica, unique in the cluster."""
    url: str
    """`http://{host}:{port}`, without a slash at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelActivation:
    """What there is of one model.

    READY and DEGRADED have at least one endpoint. DEPLOYING and IDLE have none: requests wait (an
    IDLE model has to be woken first). FAILED has none: requests are refused with the reason.
    """

    state: State
    revision_number: int
    """The model revision that answers (READY, DEGRADED), or that would."""
    application: str = ""
    """The Ray Serve application that the endpoints belong to; empty when there is none."""
    endpoints: tuple[Endpoint, ...] = ()
    secret: str = field(default="", repr=False)
    """What the endpoints want in the `authorization: Bearer` header."""
    reason: str = ""
    """UPPER_SNAKE, for DEGRADED and FAILED."""
    message: str = ""
    """The engine's own words, for operators: may name files and hosts."""
    retry_after_s: float = 0.0
    """FAILED: how long until it is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """What this data plane has made of a snapshot. A model that is not in it is IDLE: healthy, with
    no replica."""

    sequence: int
    """Counts up with each activation that this agent made."""
    models: Mapping[str, ModelActivation]
    """By resource name of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The one pair that a request is decided by, from its start to its end."""

    snapshot: Snapshot
    activation: Activation
