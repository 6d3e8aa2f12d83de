"""Changes of the snapshot in service, as they are received."""

from __future__ import annotations

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.change import Change
from dataplane.snapshot.snapshot import Position
from dataplane.sync.events import Accepted, Candidate, Diverged
from dataplane.sync.subscriber import Subscriber
from dataplane.sync.transitions import ProtocolViolation, State
from tests.raw import position
from tests.unit.dataplane.sync.test_subscriber import CATALOG, commit, deliver, opened, sent_messages


def offered_change(serving: Position, at: Position) -> Subscriber:
    """A subscriber that has received a change, which is not decided."""
    subscriber = opened(serving)
    sent_messages(subscriber)
    intent = pb.Intent(mode=pb.Intent.MODE_DELTA, to=at.to_proto(), entry_count=2, base=serving.to_proto())
    assert subscriber.receive(pb.SyncResponse(intent=intent)) is None
    assert subscriber.receive(pb.SyncResponse(chunk=pb.Chunk(removed=[CATALOG[0].name]))) is None
    candidate = subscriber.receive(commit(at))
    assert isinstance(candidate, Candidate)
    assert candidate.content == Change(base=serving, entries=(), removed=frozenset({CATALOG[0].name}))
    return subscriber


def test_a_change_is_a_candidate_until_it_is_decided() -> None:
    serving, at = position(CATALOG, 3), position(CATALOG[1:], 4)
    subscriber = offered_change(serving, at)
    subscriber.decided(Accepted(with_errors=False))
    assert subscriber.serving == at
    assert sent_messages(subscriber)[-1].status.phase == pb.PHASE_ACTIVE


def test_a_change_that_did_not_come_out_is_asked_for_as_a_whole_and_not_rejected() -> None:
    serving, at = position(CATALOG, 3), position(CATALOG[1:], 4)
    subscriber = offered_change(serving, at)
    assert subscriber.decided(Diverged()) is None
    (wanted,) = sent_messages(subscriber)
    assert wanted.want.to == at.to_proto()
    assert (subscriber.serving, subscriber.rejected) == (serving, ())
    deliver(subscriber, at, CATALOG[1:])
    subscriber.decided(Accepted(with_errors=False))
    assert subscriber.serving == at


def test_a_change_that_did_not_come_out_after_its_stream_ended_is_not_asked_for() -> None:
    subscriber = offered_change(position(CATALOG, 3), position(CATALOG[1:], 4))
    subscriber.close()
    subscriber.decided(Diverged())
    subscriber.open()
    assert not any(message.HasField("want") for message in sent_messages(subscriber))


def test_a_change_of_another_snapshot_than_the_served_one_is_a_violation() -> None:
    serving = position(CATALOG, 3)
    subscriber = opened(serving)
    for base in (None, position(CATALOG, 2)):
        intent = pb.Intent(
            mode=pb.Intent.MODE_DELTA,
            to=position(CATALOG, 4).to_proto(),
            base=base.to_proto() if base else None,
        )
        with pytest.raises(ProtocolViolation, match="does not begin at the snapshot that is served"):
            subscriber.receive(pb.SyncResponse(intent=intent))
        assert subscriber.state is State.IDLE
