"""Manifests of the announced snapshot, as they are received."""

from __future__ import annotations

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.change import Change
from dataplane.snapshot.snapshot import Position, RawEntry
from dataplane.sync.events import Accepted, Candidate, Diverged, Identity, Refused
from dataplane.sync.subscriber import Subscriber
from dataplane.sync.transitions import ProtocolViolation, State
from tests.raw import POLICY, entry_proto, model, position, raws
from tests.unit.dataplane.sync.test_subscriber import CATALOG, commit, deliver, sent_messages

LATER = raws(model("a", number=2), model("b"))
AT = position(LATER, 4)


def announced(at: Position = AT) -> Subscriber:
    """A subscriber that serves CATALOG, and knows that the manifest of LATER follows."""
    identity = Identity(data_plane="dp", instance_uid="i")
    subscriber = Subscriber(identity, policy=POLICY, serving=position(CATALOG, 3), held=lambda: CATALOG)
    subscriber.open()
    sent_messages(subscriber)
    intent = pb.Intent(mode=pb.Intent.MODE_MANIFEST, to=at.to_proto(), entry_count=len(LATER))
    subscriber.receive(pb.SyncResponse(intent=intent))
    return subscriber


def refs(*entries: RawEntry) -> pb.SyncResponse:
    return pb.SyncResponse(chunk=pb.Chunk(refs=[entry_proto(entry).ref for entry in entries]))


def chunk(*entries: RawEntry) -> pb.SyncResponse:
    return pb.SyncResponse(chunk=pb.Chunk(entries=[entry_proto(entry) for entry in entries]))


def offered() -> Subscriber:
    """A subscriber that has received all of LATER, which is not decided."""
    subscriber = announced()
    assert subscriber.receive(refs(*LATER)) is None
    lacked = [entry for entry in LATER if entry not in CATALOG]
    (message,) = sent_messages(subscriber)
    assert message.want == pb.Want(to=AT.to_proto(), digests=[entry.digest for entry in lacked])
    assert subscriber.receive(chunk(*lacked)) is None
    candidate = subscriber.receive(commit(AT))
    assert isinstance(candidate, Candidate)
    assert isinstance(candidate.content, Change)
    assert candidate.content.entries == tuple(lacked)
    return subscriber


def test_what_is_lacked_is_asked_for_and_the_change_is_a_candidate() -> None:
    subscriber = offered()
    subscriber.decided(Accepted(with_errors=False))
    assert subscriber.serving == AT
    assert sent_messages(subscriber)[-1].status.phase == pb.PHASE_ACTIVE


def test_each_chunk_of_refs_is_answered_even_if_nothing_is_lacked() -> None:
    subscriber = announced()
    held = next(entry for entry in LATER if entry in CATALOG)
    subscriber.receive(refs(held))
    (message,) = sent_messages(subscriber)
    assert message.want == pb.Want(to=AT.to_proto())
    assert subscriber.state is State.COMPARING


def test_a_manifest_that_did_not_come_out_is_followed_by_the_whole_snapshot_and_not_rejected() -> None:
    subscriber = offered()
    assert subscriber.decided(Diverged()) is None
    (message,) = sent_messages(subscriber)
    assert message.want == pb.Want(to=AT.to_proto())
    deliver(subscriber, AT, LATER)
    subscriber.decided(Accepted(with_errors=False))
    assert (subscriber.serving, subscriber.rejected) == (AT, ())


@pytest.mark.parametrize(
    ("first", "following"),
    [(LATER[0], chunk(LATER[0])), (LATER[0], refs(LATER[1])), (LATER[1], commit(AT)), (LATER[1], refs(LATER[1]))],
)
def test_a_control_plane_that_does_not_wait_for_the_want_is_at_fault(
    first: RawEntry, following: pb.SyncResponse
) -> None:
    """The first of LATER is not held, the second is."""
    subscriber = announced()
    subscriber.receive(refs(first))
    state = subscriber.state
    with pytest.raises(ProtocolViolation):
        subscriber.receive(following)
    assert subscriber.state is state
    assert len(sent_messages(subscriber)) == 1


def test_a_snapshot_that_is_refused_at_its_announcement_is_not_asked_for() -> None:
    subscriber = announced(position(LATER, 2))
    assert subscriber.state is State.DISCARDING
    sent_messages(subscriber)
    subscriber.receive(refs(*LATER))
    assert sent_messages(subscriber) == []


def test_a_damaged_manifest_is_refused_and_no_want_follows() -> None:
    subscriber = announced()
    assert isinstance(subscriber.receive(refs(LATER[1], LATER[0])), Refused)
    assert [message.WhichOneof("message") for message in sent_messages(subscriber)] == ["status"]


def test_a_manifest_on_an_earlier_stream_is_forgotten() -> None:
    subscriber = announced()
    subscriber.receive(refs(*LATER))
    subscriber.close()
    subscriber.open()
    assert not any(message.HasField("want") for message in sent_messages(subscriber))
    deliver(subscriber, AT, LATER)
