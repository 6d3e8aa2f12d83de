"""What the Sync stream and the agent tell each other: candidates, decisions and ends. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.snapshot.change import Change
from dataplane.snapshot.snapshot import Position, RawEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """How this data plane introduces itself in Hello."""

    data_plane: str
    """Its id."""
    instance_uid: str
    """Differs for each start of the agent, and after rejections were taken back."""
    http_address: str = ""
    """Where its OpenAI API is. For people to read."""
    software_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The agent's decision that a snapshot is in service."""

    with_errors: bool
    """Whether entries of it are quarantined."""
    warning: str = ""
    """What operators must know of it while it is in service, for people to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A snapshot that was refused as a whole."""

    position: Position
    reason: str
    """UPPER_SNAKE."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diverged:
    """The agent's decision that a change did not lead to the announced snapshot.

    It is sent again, as a whole. That is no rejection: the snapshot may be good.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A complete snapshot. The shell asks the agent to decide about it, then calls `decided`."""

    position: Position
    content: tuple[RawEntry, ...] | Change
    """All entries, or what differs from the snapshot in service."""
    signed_head: bytes = b""
    """The serialised SignedHead that was announced with it. Empty: none was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A snapshot was refused before it was complete. There is nothing to decide."""

    rejected: Rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The stream is over, by a Goodbye of the control plane or for another reason."""

    reason: str
    reconnect_after_s: float
    """Seconds to wait, beside the backoff, before the next stream."""


Event = Candidate | Refused | Ended
"""What a message of the control plane may lead to."""
