from __future__ import annotations

import pytest

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import position_to_proto
from controlplane.catalog.domain import Head, Position
from controlplane.fleet.progress import Progress
from controlplane.push.subscription.machine import Subscription
from controlplane.push.subscription.states import State
from controlplane.push.subscription.transfer import ChangeRequest, ChunkRequest, written_of
from tests.unit.controlplane.push.subscription.client import (
    LIMITS,
    active,
    at,
    greeted,
    head,
    hello,
    refused,
    send_all,
    status,
    want,
)


def test_a_client_with_the_head_is_sent_nothing() -> None:
    subscription = greeted(3, have=at(3))
    output = subscription.take_output(0)
    assert isinstance(output, pb.SyncResponse)
    assert output.intent.mode == pb.Intent.MODE_NONE
    assert send_all(subscription) == []
    assert subscription.settled


def test_a_client_with_another_snapshot_is_sent_all_of_the_head() -> None:
    subscription = Subscription(head=head(3, entry_count=3), limits=LIMITS, now_s=0)
    subscription.receive(hello(at(2)), 0)
    assert send_all(subscription) == ["intent", "chunk", "chunk", "chunk", "commit"]
    assert subscription.state is State.ANSWER_EXPECTED
    assert not subscription.settled


def test_a_chunk_continues_after_the_last_entry() -> None:
    subscription = Subscription(head=head(3, entry_count=3), limits=LIMITS, now_s=0)
    subscription.receive(hello(), 0)
    subscription.take_output(0)
    request = subscription.take_output(0)
    assert request == ChunkRequest(position=at(3), index=0, after_name="")
    entries = [snapshot_pb2.Entry(ref=snapshot_pb2.EntryRef(name=name)) for name in "ab"]
    subscription.chunk_written(written_of(pb.Chunk(entries=entries)))
    assert subscription.take_output(0) == ChunkRequest(position=at(3), index=1, after_name="b")


def test_an_empty_snapshot_is_an_intent_and_a_commit() -> None:
    subscription = Subscription(head=head(0, entry_count=0), limits=LIMITS, now_s=0)
    subscription.receive(hello(), 0)
    assert send_all(subscription) == ["intent", "commit"]


def test_commits_coalesce_while_a_snapshot_is_under_way() -> None:
    subscription = greeted(1)
    assert send_all(subscription) == ["intent", "chunk", "commit"]
    for revision in range(2, 50):
        subscription.publish(head(revision))
        assert send_all(subscription) == []
    subscription.receive(active(at(1)), 1)
    output = subscription.take_output(1)
    assert isinstance(output, pb.SyncResponse)
    assert output.intent.to == position_to_proto(at(49))


def test_an_older_head_is_ignored() -> None:
    subscription = greeted(5, have=at(5))
    send_all(subscription)
    subscription.publish(head(4))
    assert send_all(subscription) == []


def test_a_client_that_serves_more_than_it_may_have_by_now_is_sent_nothing_older() -> None:
    subscription = greeted(3, have=at(5))
    subscription.publish(head(3), newest_revision=7)
    output = subscription.take_output(0)
    assert isinstance(output, pb.SyncResponse)
    assert output.heartbeat.head == position_to_proto(at(5))
    assert subscription.take_output(0) is None
    assert not subscription.settled
    subscription.publish(head(6), newest_revision=7)
    assert send_all(subscription)[0] == "intent"
    # A revision that there is not yet is from a store that was restored.
    restored = greeted(3, have=at(9))
    restored.publish(head(3), newest_revision=7)
    assert send_all(restored)[0] == "intent"


def test_heartbeats_go_out_also_between_chunks() -> None:
    subscription = Subscription(head=head(3, entry_count=3), limits=LIMITS, now_s=0)
    subscription.receive(hello(), 0)
    subscription.take_output(0)
    output = subscription.take_output(10)
    assert isinstance(output, pb.SyncResponse)
    assert output.heartbeat.head == position_to_proto(at(3))
    assert isinstance(subscription.take_output(10), ChunkRequest)
    assert subscription.due_s == 20


def test_a_nacked_revision_is_not_resent() -> None:
    subscription = greeted(1)
    send_all(subscription)
    subscription.receive(status(at(1), pb.PHASE_REJECTED, reason="BAD"), 1)
    assert send_all(subscription, 2) == []
    assert subscription.settled
    subscription.publish(head(2))
    assert send_all(subscription, 2) == ["intent", "chunk", "commit"]


def test_a_snapshot_that_hello_rejects_is_not_sent() -> None:
    subscription = greeted(2, have=at(1), rejected=(at(2),))
    assert send_all(subscription) == ["heartbeat"]
    assert subscription.settled
    assert subscription.progress.serving == at(1)


def test_a_rejection_by_the_same_instance_is_recalled() -> None:
    known = Progress(serving=None, target=at(2), phase=pb.PHASE_REJECTED, reason="BAD", message="words")
    subscription = greeted(2)
    subscription.recall(known, same_instance=True)
    assert send_all(subscription) == ["heartbeat"]
    assert subscription.progress == known


def test_a_rejection_by_another_instance_is_not_recalled() -> None:
    subscription = greeted(2)
    subscription.recall(Progress(target=at(2), phase=pb.PHASE_REJECTED, reason="BAD"), same_instance=False)
    assert send_all(subscription) == ["intent", "chunk", "commit"]
    assert subscription.progress.phase == pb.PHASE_UNSPECIFIED


def test_the_reason_of_a_rejection_outlives_the_stream() -> None:
    known = Progress(serving=at(1), target=at(2), phase=pb.PHASE_REJECTED, reason="BAD", message="words")
    subscription = greeted(2, have=at(1), rejected=(at(2),))
    subscription.recall(known, same_instance=False)
    assert subscription.progress == known


def test_a_rejection_stops_the_transfer() -> None:
    subscription = Subscription(head=head(3, entry_count=3), limits=LIMITS, now_s=0)
    subscription.receive(hello(), 0)
    subscription.take_output(0)
    subscription.take_output(0)
    subscription.receive(status(at(3), pb.PHASE_REJECTED, reason="STORE_UID_MISMATCH"), 0)
    subscription.chunk_written(written_of(pb.Chunk(entries=[snapshot_pb2.Entry()])))
    assert send_all(subscription) == []
    subscription.publish(Head(position=at(4), entry_count=2))
    assert send_all(subscription) == ["intent", "chunk", "chunk", "commit"]


def test_a_snapshot_of_another_store_is_replaced_by_the_head() -> None:
    """The client rejects it, and so operators learn that the store has changed."""
    assert send_all(greeted(3, have=at(9, store_uid="other"))) == ["intent", "chunk", "commit"]


def test_a_higher_revision_is_replaced_by_the_head() -> None:
    assert send_all(greeted(3, have=at(9))) == ["intent", "chunk", "commit"]


def test_a_status_that_crosses_the_goodbye_is_no_violation_and_changes_nothing() -> None:
    subscription = greeted(1)
    send_all(subscription)
    subscription.end("SHUTTING_DOWN", reconnect_after_s=1)
    subscription.take_output(0)
    before = subscription.progress
    assert subscription.receive(active(at(1)), 0).is_empty
    assert (subscription.state, subscription.progress) == (State.CLOSED, before)


def test_a_hello_that_crosses_the_goodbye_is_no_violation_and_changes_nothing() -> None:
    subscription = Subscription(head=head(1), limits=LIMITS, now_s=0)
    assert isinstance(subscription.take_output(LIMITS.hello_timeout_s), pb.SyncResponse)
    assert subscription.receive(hello(), LIMITS.hello_timeout_s).is_empty
    assert subscription.hello is None


def served(revision: int) -> Subscription:
    """A client that serves `revision`, takes changes, and has been told so."""
    subscription = Subscription(head=head(revision), limits=LIMITS, now_s=0)
    subscription.receive(hello(at(revision), takes_changes=True), 0)
    assert send_all(subscription) == ["intent"]
    return subscription


def test_a_client_that_takes_changes_is_sent_what_differs() -> None:
    subscription = served(1)
    subscription.publish(head(4))
    request = ChangeRequest(base=at(1), head=head(4))
    assert subscription.take_output(0) == request
    subscription.publish(head(5))
    intent = subscription.announce(request, can_send_change=True).intent
    assert (intent.mode, intent.to) == (pb.Intent.MODE_DELTA, position_to_proto(at(4)))
    assert intent.base == position_to_proto(at(1))
    assert subscription.take_output(0) == ChunkRequest(position=at(4), base=at(1), index=0, after_name="")
    entries = [snapshot_pb2.Entry(ref=snapshot_pb2.EntryRef(name="b"))]
    subscription.chunk_written(written_of(pb.Chunk(entries=entries, removed=["a", "c"])))
    assert subscription.take_output(0) == ChunkRequest(position=at(4), base=at(1), index=1, after_name="c")
    assert subscription.oldest_in_use == 1
    subscription.change_written()
    commit = subscription.take_output(0)
    assert isinstance(commit, pb.SyncResponse)
    assert commit.commit.to == position_to_proto(at(4))
    subscription.receive(active(at(4)), 0)
    assert subscription.take_output(0) == ChangeRequest(base=at(4), head=head(5))


def test_a_change_that_cannot_be_sent_is_replaced_by_the_whole_snapshot() -> None:
    subscription = served(1)
    subscription.publish(head(4))
    request = subscription.take_output(0)
    assert isinstance(request, ChangeRequest)
    assert subscription.announce(request, can_send_change=False).intent.mode == pb.Intent.MODE_FULL
    assert send_all(subscription) == ["chunk", "commit"]


@pytest.mark.parametrize("have", [None, at(9), at(1, store_uid="other")])
def test_a_change_begins_at_an_earlier_snapshot_of_the_same_store(have: Position | None) -> None:
    subscription = Subscription(head=head(3), limits=LIMITS, now_s=0)
    subscription.receive(hello(have, takes_changes=True), 0)
    assert send_all(subscription) == ["intent", "chunk", "commit"]


def test_a_client_that_does_not_take_changes_is_sent_none() -> None:
    subscription = greeted(3, have=at(2))
    assert send_all(subscription) == ["intent", "chunk", "commit"]


def test_a_change_that_did_not_come_out_is_followed_by_the_whole_newest_snapshot() -> None:
    subscription = served(1)
    subscription.publish(head(2))
    assert send_all(subscription) == ["change", "chunk", "chunk", "commit"]
    subscription.publish(head(3))
    subscription.receive(want(at(2)), 0)
    assert not subscription.rejects(at(2))
    intent = subscription.take_output(0)
    assert isinstance(intent, pb.SyncResponse)
    assert (intent.intent.mode, intent.intent.to) == (pb.Intent.MODE_FULL, position_to_proto(at(3)))
    assert send_all(subscription) == ["chunk", "commit"]
    subscription.receive(active(at(3)), 0)
    subscription.publish(head(4))
    assert send_all(subscription)[0] == "change", "later changes are sent as changes again"


def test_want_is_legal_only_in_answer_to_a_change() -> None:
    idle = served(1)
    assert "another time" in refused(idle, want(at(1))).message
    whole = greeted(2)
    send_all(whole)
    assert "another time" in refused(whole, want(at(2))).message
    change = served(1)
    change.publish(head(2))
    send_all(change)
    assert "sent last" in refused(change, want(at(1))).message
