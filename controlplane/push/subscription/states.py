"""The states of a stream, and the transitions between them. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType


class State(enum.Enum):
    """Where a stream is."""

    HELLO_EXPECTED = "HELLO_EXPECTED"
    IDLE = "IDLE"
    """The client serves or has rejected what it was last sent."""
    SENDING = "SENDING"
    """Intent was sent, Commit was not."""
    WANT_EXPECTED = "WANT_EXPECTED"
    """A chunk of refs was sent, and the Want that answers it has not come."""
    ANSWER_EXPECTED = "ANSWER_EXPECTED"
    """Commit was sent, and its answer has not come."""
    CLOSED = "CLOSED"


class Event(enum.Enum):
    """What moves a stream from a state to the next. GOODBYE leads to CLOSED from any state."""

    HELLO = enum.auto()
    INTENT = enum.auto()
    """Of a snapshot, a change or a manifest. An Intent that nothing follows moves nothing."""
    REFS = enum.auto()
    """A chunk of a manifest."""
    WANT = enum.auto()
    """Answers a chunk of refs: the client lacks these entries of it."""
    COMMIT = enum.auto()
    ACK = enum.auto()
    NACK = enum.auto()
    """A client may refuse a snapshot before its Commit."""
    DIVERGED = enum.auto()
    """A Want that answers a Commit: the change or the manifest did not come out."""
    GOODBYE = enum.auto()


TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.HELLO_EXPECTED, Event.HELLO): State.IDLE,
        (State.IDLE, Event.INTENT): State.SENDING,
        (State.SENDING, Event.COMMIT): State.ANSWER_EXPECTED,
        (State.SENDING, Event.NACK): State.IDLE,
        (State.SENDING, Event.REFS): State.WANT_EXPECTED,
        (State.WANT_EXPECTED, Event.WANT): State.SENDING,
        (State.WANT_EXPECTED, Event.NACK): State.IDLE,
        (State.ANSWER_EXPECTED, Event.ACK): State.IDLE,
        (State.ANSWER_EXPECTED, Event.NACK): State.IDLE,
        (State.ANSWER_EXPECTED, Event.DIVERGED): State.IDLE,
        **{(state, Event.GOODBYE): State.CLOSED for state in State},
    }
)
"""The next state. Without an entry, the event is illegal in that state."""
