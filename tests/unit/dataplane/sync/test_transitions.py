"""Every cell of the table of transitions, by the messages and calls that take it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.policy import Limits, Policy
from dataplane.snapshot.snapshot import Position
from dataplane.sync.events import Accepted, Identity
from dataplane.sync.subscriber import Subscriber
from dataplane.sync.transitions import LOCAL_INPUTS, TRANSITIONS, Input, ProtocolViolation, State, next_state
from tests.raw import entry_proto, model, position, raws

ENTRIES = raws(model("a"), model("b"))
SERVING = position(ENTRIES[:1], 3)
NEXT = position(ENTRIES, 4)
BEHIND = position(ENTRIES, 2)
POLICY = Policy(allowed_sources=("file:///",), limits=Limits(blob_bytes_max=200))

# Columns in the order of the rows' states; "-" is illegal.
TABLE = """
                 CLOSED     IDLE        RECEIVING   COMPARING   FETCHING    DISCARDING  DECIDING
OPEN             IDLE       -           -           -           -           -           -
CLOSE            CLOSED     CLOSED      CLOSED      CLOSED      CLOSED      CLOSED      CLOSED
DECIDED          CLOSED     -           -           -           -           -           IDLE
INTENT_NONE      -          IDLE        -           -           -           IDLE        -
INTENT_FULL      -          RECEIVING   -           -           -           RECEIVING   -
INTENT_DELTA     -          RECEIVING   -           -           -           RECEIVING   -
INTENT_MANIFEST  -          COMPARING   -           -           -           COMPARING   -
INTENT_REFUSED   -          DISCARDING  -           -           -           DISCARDING  -
CHUNK            -          -           RECEIVING   -           FETCHING    DISCARDING  -
CHUNK_LAST       -          -           -           -           COMPARING   -           -
REFS_HELD        -          -           -           COMPARING   -           -           -
REFS_LACKED      -          -           -           FETCHING    -           -           -
CHUNK_REFUSED    -          -           DISCARDING  DISCARDING  DISCARDING  -           -
COMMIT           -          -           DECIDING    DECIDING    -           IDLE        -
COMMIT_REFUSED   -          -           IDLE        IDLE        -           -           -
HEARTBEAT        -          IDLE        RECEIVING   COMPARING   FETCHING    DISCARDING  DECIDING
GOODBYE          -          CLOSED      CLOSED      CLOSED      CLOSED      CLOSED      CLOSED
"""


def expected() -> dict[tuple[State, Input], State]:
    """The legal cells of TABLE."""
    header, *rows = (line.split() for line in TABLE.strip().splitlines())
    cells = ((State[column], Input[row[0]], cell) for row in rows for column, cell in zip(header, row[1:], strict=True))
    return {(state, taken): State[cell] for state, taken, cell in cells if cell != "-"}


def intent(at: Position, mode: pb.Intent.Mode.ValueType, *, base: Position | None = None) -> pb.SyncResponse:
    made = pb.Intent(mode=mode, to=at.to_proto(), entry_count=len(ENTRIES), base=base.to_proto() if base else None)
    return pb.SyncResponse(intent=made)


def chunk(*, blob: bytes | None = None, count: int = len(ENTRIES)) -> pb.SyncResponse:
    entries = [entry_proto(entry) for entry in ENTRIES[:count]]
    if blob is not None:
        entries[0].blob = blob
    return pb.SyncResponse(chunk=pb.Chunk(entries=entries))


def refs(*, digest: bytes | None = None, count: int = 1) -> pb.SyncResponse:
    """Refs of entries that are held; with a digest, of entries that are not."""
    entries = [entry_proto(entry).ref for entry in ENTRIES[:count]]
    for ref in entries if digest is not None else ():
        ref.digest = digest or b""
    return pb.SyncResponse(chunk=pb.Chunk(refs=entries))


COMMIT = pb.SyncResponse(commit=pb.Commit(to=NEXT.to_proto()))
INTENT_FULL = intent(NEXT, pb.Intent.MODE_FULL)
INTENT_REFUSED = intent(BEHIND, pb.Intent.MODE_FULL)

MESSAGES = {
    Input.INTENT_NONE: intent(SERVING, pb.Intent.MODE_NONE),
    Input.INTENT_FULL: INTENT_FULL,
    Input.INTENT_DELTA: intent(NEXT, pb.Intent.MODE_DELTA, base=SERVING),
    Input.INTENT_MANIFEST: intent(NEXT, pb.Intent.MODE_MANIFEST),
    Input.INTENT_REFUSED: INTENT_REFUSED,
    Input.CHUNK: chunk(count=1),
    Input.CHUNK_LAST: chunk(),
    Input.REFS_HELD: refs(),
    Input.REFS_LACKED: refs(digest=bytes(32)),
    Input.CHUNK_REFUSED: chunk(blob=b"x" * 201),
    Input.COMMIT: COMMIT,
    Input.COMMIT_REFUSED: COMMIT,
    Input.HEARTBEAT: pb.SyncResponse(heartbeat=pb.Heartbeat(head=NEXT.to_proto())),
    Input.GOODBYE: pb.SyncResponse(goodbye=pb.Goodbye(reason="SHUTTING_DOWN")),
}
"""A message that is this input wherever the input is legal."""

REFS_REFUSED = refs(digest=b"short")
"""CHUNK_REFUSED in COMPARING."""

NOT_LOOKED_AT = {
    (State.DISCARDING, Input.CHUNK_REFUSED),
    (State.DISCARDING, Input.COMMIT_REFUSED),
    *((State.DISCARDING, taken) for taken in (Input.CHUNK_LAST, Input.REFS_HELD, Input.REFS_LACKED)),
    (State.RECEIVING, Input.CHUNK_LAST),
}
"""Cells whose message is another input in that state: there its content does not matter."""

CALLS: dict[Input, Callable[[Subscriber], object]] = {
    Input.OPEN: Subscriber.open,
    Input.CLOSE: Subscriber.close,
    Input.DECIDED: lambda subscriber: subscriber.decided(Accepted(with_errors=False)),
}


def subscriber_in(state: State, taken: Input) -> Subscriber:
    """A subscriber in `state`, prepared so that the next input is `taken`."""
    held = ENTRIES if state is State.COMPARING else ()
    identity = Identity(data_plane="dp", instance_uid="i")
    subscriber = Subscriber(identity, policy=POLICY, serving=SERVING, held=lambda: held)
    if state is State.CLOSED and taken is not Input.DECIDED:
        return subscriber
    subscriber.open()
    if state is State.DISCARDING:
        subscriber.receive(INTENT_REFUSED)
    elif state is State.RECEIVING:
        subscriber.receive(INTENT_FULL)
        if taken is Input.COMMIT:
            subscriber.receive(chunk())
        elif taken is Input.COMMIT_REFUSED:
            subscriber.receive(chunk(count=1))
    elif state in (State.COMPARING, State.FETCHING):
        subscriber.receive(MESSAGES[Input.INTENT_MANIFEST])
        if state is State.FETCHING or taken is Input.COMMIT:
            subscriber.receive(refs(count=2))
            while subscriber.take_message() is not None:
                pass
    elif state in (State.DECIDING, State.CLOSED):
        for response in (INTENT_FULL, chunk(), COMMIT):
            subscriber.receive(response)
        if state is State.CLOSED:
            subscriber.close()
    assert subscriber.state is state
    return subscriber


def snapshot_of(subscriber: Subscriber) -> tuple[object, ...]:
    """What an illegal input must not change."""
    return (
        *(subscriber.state, subscriber.serving, subscriber.with_errors, subscriber.head),
        *(subscriber.rejected, subscriber.deciding, tuple(subscriber._phase_reports)),
    )


CELLS = list(itertools.product(State, Input))


def test_the_table_is_the_documented_one() -> None:
    assert dict(TRANSITIONS) == expected()


@pytest.mark.parametrize(("state", "taken"), CELLS, ids=lambda value: value.name)
def test_each_cell_by_the_table(state: State, taken: Input) -> None:
    if (state, taken) in expected():
        assert next_state(state, taken) is expected()[state, taken]
    else:
        with pytest.raises(AssertionError if taken in LOCAL_INPUTS else ProtocolViolation):
            next_state(state, taken)


@pytest.mark.parametrize(
    ("state", "taken"),
    [cell for cell in CELLS if cell not in NOT_LOOKED_AT],
    ids=lambda value: value.name,
)
def test_each_cell_by_its_message(state: State, taken: Input) -> None:
    subscriber = subscriber_in(state, taken)
    message = REFS_REFUSED if (state, taken) == (State.COMPARING, Input.CHUNK_REFUSED) else MESSAGES.get(taken)
    before = snapshot_of(subscriber)
    following = expected().get((state, taken))
    legal = following is not None
    if taken in CALLS:
        if legal:
            CALLS[taken](subscriber)
        else:
            with pytest.raises(AssertionError):
                CALLS[taken](subscriber)
    elif legal:
        assert message is not None
        subscriber.receive(message)
    else:
        # Without a stream nothing can arrive: that is a fault of the shell.
        with pytest.raises(AssertionError if state is State.CLOSED else ProtocolViolation):
            subscriber.receive(message or COMMIT)
    if following is None:
        assert snapshot_of(subscriber) == before
    else:
        assert subscriber.state is following
