"""The activation of a snapshot: the state of each model and the endpoints of its replicas. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.snapshot.snapshot import Snapshot

START_QUEUED = "START_QUEUED"
"""Reason of a DEPLOYING model whose start waits until other starts have ended."""


class State(enum.Enum):
    """States of a model or adapter. `broadsheet.v1.ResourceState` documents them."""

    DEPLOYING = "DEPLOYING"
    READY = "READY"
    IDLE = "IDLE"
    DEGRADED = "DEGRADED"
    FAILED = "FAILED"
    DRAINING = "DRAINING"
    QUARANTINED = "QUARANTINED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One engine replica that serves HTTP."""

    replica_id: str
    """Ray Serve's id of the replica, unique in the cluster."""
    url: str
    """`http://{host}:{port}`, or `https` if it has a certificate, without a slash at the end."""
    further_urls: tuple[str, ...] = ()
    """Of the replica's further front-end processes, which share its engine."""

    @property
    def urls(self) -> tuple[str, ...]:
        """All."""
        return self.url, *self.further_urls


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelActivation:
    """State and endpoints of one model.

    READY and DEGRADED have at least one endpoint. DEPLOYING and IDLE have none: requests wait, and
    an IDLE model has to be woken first. FAILED has none: requests are refused with the reason.
    """

    state: State
    revision_number: int
    """The model revision that answers (READY, DEGRADED), or that would answer."""
    application: str = ""
    """Ray Serve application of the endpoints; empty when there is none."""
    endpoints: tuple[Endpoint, ...] = ()
    secret: str = field(default="", repr=False)
    """Secret that the endpoints require in the `authorization: Bearer` header."""
    reason: str = ""
    """UPPER_SNAKE, for DEGRADED and FAILED; `START_QUEUED` for DEPLOYING."""
    message: str = ""
    """The engine's own error text, for operators. It may name files and hosts."""
    retry_after_s: float = 0.0
    """FAILED: seconds until the next attempt to start it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """The state of every model. A model that is absent is IDLE: healthy, with no replica."""

    sequence: int
    """Increases with each activation of this agent."""
    models: Mapping[str, ModelActivation]
    """By resource name of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A snapshot with its activation. One request uses the same view from start to end."""

    snapshot: Snapshot
    activation: Activation
