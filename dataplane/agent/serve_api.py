"""What the agent needs of Ray Serve: the calls it makes, and what they return. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from dataplane.agent.resources import Resources
from dataplane.relay.messages import ApplicationRecord


class ServeState(enum.Enum):
    """Ray Serve's states of an application, as far as the agent tells them apart."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    FAILED = "FAILED"
    """DEPLOY_FAILED: it did not start. Ray Serve does not try again by itself."""
    UNHEALTHY = "UNHEALTHY"
    """It has run. Ray Serve replaces its replicas."""
    DELETING = "DELETING"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeStatus:
    """One application in Ray Serve's answer."""

    state: ServeState
    message: str
    """Ray Serve's words, which may hold those of the engine."""
    reason: str = ""
    """FAILED: the reason that the message gives, UPPER_SNAKE."""


class ServeApi(Protocol):
    """Ray Serve. Every call blocks: make it in a thread."""

    def deploy(self, record: ApplicationRecord) -> None:
        """Deploy the application of a model, or update its scaling in place.

        Returns as soon as Ray Serve has taken it on. Replicas that are running keep running.

        Args:
            record: The application, with the scaling that it is to have.
        """

    def delete(self, application: str) -> None:
        """Request the deletion of an application. Returns at once; its replicas drain first."""

    def observe(self) -> Mapping[str, ServeStatus]:
        """All applications of models, by name. Each costs Ray Serve's controller time."""

    def ingress_replicas(self) -> frozenset[str]:
        """Ids of the ingress replicas whose processes live or start, whether they answer or not."""

    def stop_ingress_replica(self, replica_id: str) -> None:
        """End the process of an ingress replica now. Ray Serve starts another one."""

    def free_resources(self) -> Resources:
        """Resources of the cluster that are free, over all nodes."""
