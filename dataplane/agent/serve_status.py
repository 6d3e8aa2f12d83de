"""What Ray Serve reports about an application. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass


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
