"""The states of the data plane's end of a Sync stream, and the table of transitions. Pure.

    state       input              next
    CLOSED      OPEN               IDLE
    CLOSED      DECIDED            CLOSED       a decision outlives its stream
    IDLE        INTENT_NONE        IDLE
    IDLE        INTENT_FULL        RECEIVING
    IDLE        INTENT_DELTA       RECEIVING
    IDLE        INTENT_MANIFEST    COMPARING
    IDLE        INTENT_REFUSED     DISCARDING
    RECEIVING   CHUNK              RECEIVING
    RECEIVING   CHUNK_REFUSED      DISCARDING
    RECEIVING   COMMIT             DECIDING
    RECEIVING   COMMIT_REFUSED     IDLE
    COMPARING   REFS_HELD          COMPARING    all of their entries are in the snapshot served
    COMPARING   REFS_LACKED        FETCHING
    COMPARING   CHUNK_REFUSED      DISCARDING
    COMPARING   COMMIT             DECIDING
    COMPARING   COMMIT_REFUSED     IDLE
    FETCHING    CHUNK              FETCHING
    FETCHING    CHUNK_LAST         COMPARING    all that was lacked has come
    FETCHING    CHUNK_REFUSED      DISCARDING
    DISCARDING  CHUNK              DISCARDING   it was sent before the refusal arrived
    DISCARDING  COMMIT             IDLE
    DISCARDING  INTENT_*           as in IDLE
    DECIDING    DECIDED            IDLE
    not CLOSED  HEARTBEAT          the same
    not CLOSED  GOODBYE            CLOSED
    any         CLOSE              CLOSED

Every other pair is illegal. h11 (`_state.py`) is the model for this table.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType


class State(enum.Enum):
    """Where the stream is."""

    CLOSED = "CLOSED"
    IDLE = "IDLE"
    """No snapshot is under way."""
    RECEIVING = "RECEIVING"
    """Intent has come, and Commit has not."""
    COMPARING = "COMPARING"
    """Intent of a manifest has come, and more refs or the Commit are next."""
    FETCHING = "FETCHING"
    """Entries that this data plane lacks are on their way."""
    DISCARDING = "DISCARDING"
    """The announced snapshot is refused already. The rest of it is dropped."""
    DECIDING = "DECIDING"
    """A complete snapshot waits for the agent's decision."""


class Input(enum.Enum):
    """What moves the state machine."""

    OPEN = "open"
    """The shell opens a stream."""
    CLOSE = "close"
    """The shell closes the stream, or has lost it."""
    DECIDED = "decided"
    """The agent has decided about the candidate."""
    INTENT_NONE = "Intent NONE"
    INTENT_FULL = "Intent FULL"
    INTENT_DELTA = "Intent DELTA"
    INTENT_MANIFEST = "Intent MANIFEST"
    INTENT_REFUSED = "Intent of a refused snapshot"
    CHUNK = "Chunk"
    CHUNK_LAST = "Chunk with the last wanted entry"
    REFS_HELD = "Chunk of refs that are known"
    REFS_LACKED = "Chunk of refs"
    CHUNK_REFUSED = "Chunk beyond a limit"
    COMMIT = "Commit"
    COMMIT_REFUSED = "Commit of an incomplete snapshot"
    HEARTBEAT = "Heartbeat"
    GOODBYE = "Goodbye"


LOCAL_INPUTS = frozenset((Input.OPEN, Input.CLOSE, Input.DECIDED))
"""Inputs of this process. An illegal one is a bug here; any other is a fault of the server."""

_OPEN_STATES = tuple(state for state in State if state is not State.CLOSED)

TRANSITIONS: Mapping[tuple[State, Input], State] = MappingProxyType(
    {
        (State.CLOSED, Input.OPEN): State.IDLE,
        (State.CLOSED, Input.DECIDED): State.CLOSED,
        (State.RECEIVING, Input.CHUNK): State.RECEIVING,
        (State.RECEIVING, Input.CHUNK_REFUSED): State.DISCARDING,
        (State.RECEIVING, Input.COMMIT): State.DECIDING,
        (State.RECEIVING, Input.COMMIT_REFUSED): State.IDLE,
        (State.COMPARING, Input.REFS_HELD): State.COMPARING,
        (State.COMPARING, Input.REFS_LACKED): State.FETCHING,
        (State.COMPARING, Input.CHUNK_REFUSED): State.DISCARDING,
        (State.COMPARING, Input.COMMIT): State.DECIDING,
        (State.COMPARING, Input.COMMIT_REFUSED): State.IDLE,
        (State.FETCHING, Input.CHUNK): State.FETCHING,
        (State.FETCHING, Input.CHUNK_LAST): State.COMPARING,
        (State.FETCHING, Input.CHUNK_REFUSED): State.DISCARDING,
        (State.DISCARDING, Input.CHUNK): State.DISCARDING,
        (State.DISCARDING, Input.COMMIT): State.IDLE,
        (State.DECIDING, Input.DECIDED): State.IDLE,
    }
    | {(state, Input.INTENT_NONE): State.IDLE for state in (State.IDLE, State.DISCARDING)}
    | {(state, Input.INTENT_FULL): State.RECEIVING for state in (State.IDLE, State.DISCARDING)}
    | {(state, Input.INTENT_DELTA): State.RECEIVING for state in (State.IDLE, State.DISCARDING)}
    | {(state, Input.INTENT_MANIFEST): State.COMPARING for state in (State.IDLE, State.DISCARDING)}
    | {(state, Input.INTENT_REFUSED): State.DISCARDING for state in (State.IDLE, State.DISCARDING)}
    | {(state, Input.HEARTBEAT): state for state in _OPEN_STATES}
    | {(state, Input.GOODBYE): State.CLOSED for state in _OPEN_STATES}
    | {(state, Input.CLOSE): State.CLOSED for state in State}
)


class ProtocolViolation(Exception):
    """The control plane sent a message that is illegal now, or always. It changed nothing."""

    by = "server"


def next_state(state: State, taken: Input) -> State:
    """Return the state after an input.

    Raises:
        ProtocolViolation: The server may not send this in `state`.
        AssertionError: This process may not do this in `state`.
    """
    following = TRANSITIONS.get((state, taken))
    if following is None:
        fault = f"{taken.value} in state {state.value}"
        assert taken not in LOCAL_INPUTS, fault
        raise ProtocolViolation(fault)
    return following
