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
    ANSWER_EXPECTED = "ANSWER_EXPECTED"
    """Commit was sent, and its answer has not come."""
    CLOSED = "CLOSED"


class Event(enum.Enum):
    """What moves a stream from a state to the next. GOODBYE leads to CLOSED from any state."""

    HELLO = enum.auto()
    INTENT = enum.auto()
    """Of a snapshot or of a change. An Intent that nothing follows moves nothing."""
    COMMIT = enum.auto()
    ACK = enum.auto()
    NACK = enum.auto()
    """A client may refuse a snapshot before its Commit."""
    WANT = enum.auto()
    """The change did not come out: the client asks for the whole snapshot."""
    GOODBYE = enum.auto()


TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.HELLO_EXPECTED, Event.HELLO): State.IDLE,
        (State.IDLE, Event.INTENT): State.SENDING,
        (State.SENDING, Event.COMMIT): State.ANSWER_EXPECTED,
        (State.SENDING, Event.NACK): State.IDLE,
        (State.ANSWER_EXPECTED, Event.ACK): State.IDLE,
        (State.ANSWER_EXPECTED, Event.NACK): State.IDLE,
        (State.ANSWER_EXPECTED, Event.WANT): State.IDLE,
        **{(state, Event.GOODBYE): State.CLOSED for state in State},
    }
)
"""The next state. Without an entry, the event is illegal in that state."""
