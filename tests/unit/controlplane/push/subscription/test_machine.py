from __future__ import annotations

import pytest

from broadsheet.v1 import snapshot_pb2, status_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import position_to_proto
from controlplane.catalog.domain import Head, Position
from controlplane.fleet.progress import Progress
from controlplane.push.subscription.goodbyes import ANSWER_TIMEOUT, SILENT
from controlplane.push.subscription.machine import Subscription
from controlplane.push.subscription.states import State
from controlplane.push.subscription.timing import Limits
from controlplane.push.subscription.transfer import ChunkRequest
from controlplane.push.subscription.violations import ProtocolViolation

LIMITS = Limits(heartbeat_s=10, hello_timeout_s=10, answer_timeout_s=120, silence_timeout_s=60)


def at(revision: int, *, store_uid: str = "store", digest: int = 7) -> Position:
    return Position(store_uid=store_uid, revision=revision, digest=bytes([digest]) * 32)


def head(revision: int, entry_count: int = 1) -> Head:
    return Head(position=at(revision), entry_count=entry_count)


def hello(have: Position | None = None, rejected: tuple[Position, ...] = ()) -> pb.SyncRequest:
    return pb.SyncRequest(
        hello=pb.Hello(
            data_plane="dp",
            instance_uid="i",
            have=position_to_proto(have) if have else None,
            rejected=[position_to_proto(one) for one in rejected],
        )
    )


def status(
    target: Position | None = None,
    phase: pb.Phase.ValueType = pb.PHASE_UNSPECIFIED,
    *,
    serving: Position | None = None,
    reason: str = "",
    resources: tuple[status_pb2.ResourceStatus, ...] = (),
) -> pb.SyncRequest:
    return pb.SyncRequest(
        status=pb.Status(
            target=position_to_proto(target) if target else None,
            serving=position_to_proto(serving) if serving else None,
            phase=phase,
            reason=reason,
            resources=resources,
        )
    )


def active(position: Position) -> pb.SyncRequest:
    return status(position, pb.PHASE_ACTIVE, serving=position)


def greeted(revision: int, have: Position | None = None, rejected: tuple[Position, ...] = ()) -> Subscription:
    subscription = Subscription(head=head(revision), limits=LIMITS, now_s=0)
    subscription.receive(hello(have, rejected), 0)
    return subscription


def send_all(subscription: Subscription, now_s: float = 0) -> list[str]:
    """Write until there is nothing to say; the kinds of what was written."""
    kinds = []
    while (output := subscription.take_output(now_s)) is not None:
        if isinstance(output, ChunkRequest):
            entry = snapshot_pb2.Entry(ref=snapshot_pb2.EntryRef(name=f"{output.index:04}"))
            subscription.chunk_written(pb.Chunk(entries=[entry]))
            kinds.append("chunk")
        else:
            kinds.append(str(output.WhichOneof("message")))
    return kinds


def refused(subscription: Subscription, request: pb.SyncRequest) -> ProtocolViolation:
    before = (subscription.state, subscription.progress, subscription.in_flight, subscription.hello)
    with pytest.raises(ProtocolViolation) as raised:
        subscription.receive(request, 5)
    assert (subscription.state, subscription.progress, subscription.in_flight, subscription.hello) == before
    assert raised.value.by == "client"
    return raised.value


# --- what is sent


def test_who_has_the_head_is_told_that_nothing_follows() -> None:
    subscription = greeted(3, have=at(3))
    output = subscription.take_output(0)
    assert isinstance(output, pb.SyncResponse)
    assert output.intent.mode == pb.Intent.MODE_NONE
    assert send_all(subscription) == []
    assert subscription.settled


def test_who_has_something_else_is_sent_everything() -> None:
    subscription = Subscription(head=head(3, entry_count=3), limits=LIMITS, now_s=0)
    subscription.receive(hello(at(2)), 0)
    assert send_all(subscription) == ["intent", "chunk", "chunk", "chunk", "commit"]
    assert subscription.state is State.ANSWER_EXPECTED
    assert not subscription.settled


def test_chunks_follow_each_other() -> None:
    subscription = Subscription(head=head(3, entry_count=3), limits=LIMITS, now_s=0)
    subscription.receive(hello(), 0)
    subscription.take_output(0)
    request = subscription.take_output(0)
    assert request == ChunkRequest(position=at(3), index=0, after_name="")
    entries = [snapshot_pb2.Entry(ref=snapshot_pb2.EntryRef(name=name)) for name in "ab"]
    subscription.chunk_written(pb.Chunk(entries=entries))
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


def test_an_older_head_is_not_pointed_to() -> None:
    subscription = greeted(5, have=at(5))
    send_all(subscription)
    subscription.publish(head(4))
    assert send_all(subscription) == []


def test_heartbeats_go_out_also_between_chunks() -> None:
    subscription = Subscription(head=head(3, entry_count=3), limits=LIMITS, now_s=0)
    subscription.receive(hello(), 0)
    subscription.take_output(0)
    output = subscription.take_output(10)
    assert isinstance(output, pb.SyncResponse)
    assert output.heartbeat.head == position_to_proto(at(3))
    assert isinstance(subscription.take_output(10), ChunkRequest)
    assert subscription.due_s == 20


# --- rejections


def test_a_nacked_revision_is_not_resent() -> None:
    subscription = greeted(1)
    send_all(subscription)
    subscription.receive(status(at(1), pb.PHASE_REJECTED, reason="BAD"), 1)
    assert send_all(subscription, 2) == []
    assert subscription.settled
    subscription.publish(head(2))
    assert send_all(subscription, 2) == ["intent", "chunk", "commit"]


def test_what_hello_lists_as_rejected_is_not_sent() -> None:
    subscription = greeted(2, have=at(1), rejected=(at(2),))
    assert send_all(subscription) == ["heartbeat"]
    assert subscription.settled
    assert subscription.progress.serving == at(1)


def test_what_the_same_instance_rejected_before_is_not_sent() -> None:
    known = Progress(serving=None, target=at(2), phase=pb.PHASE_REJECTED, reason="BAD", message="words")
    subscription = greeted(2)
    subscription.recall(known, same_instance=True)
    assert send_all(subscription) == ["heartbeat"]
    assert subscription.progress == known


def test_another_instance_speaks_for_itself() -> None:
    subscription = greeted(2)
    subscription.recall(Progress(target=at(2), phase=pb.PHASE_REJECTED, reason="BAD"), same_instance=False)
    assert send_all(subscription) == ["intent", "chunk", "commit"]
    assert subscription.progress.phase == pb.PHASE_UNSPECIFIED


def test_the_reason_of_a_rejection_outlives_the_stream() -> None:
    known = Progress(serving=at(1), target=at(2), phase=pb.PHASE_REJECTED, reason="BAD", message="words")
    subscription = greeted(2, have=at(1), rejected=(at(2),))
    subscription.recall(known, same_instance=False)
    assert subscription.progress == known


def test_a_rejection_in_mid_sending_stops_the_sending() -> None:
    subscription = Subscription(head=head(3, entry_count=3), limits=LIMITS, now_s=0)
    subscription.receive(hello(), 0)
    subscription.take_output(0)
    subscription.take_output(0)
    subscription.receive(status(at(3), pb.PHASE_REJECTED, reason="STORE_UID_MISMATCH"), 0)
    subscription.chunk_written(pb.Chunk(entries=[snapshot_pb2.Entry()]))
    assert send_all(subscription) == []
    subscription.publish(Head(position=at(4), entry_count=2))
    assert send_all(subscription) == ["intent", "chunk", "chunk", "commit"]


def test_another_stores_snapshot_is_offered() -> None:
    """The client refuses it, which is how operators learn of it."""
    assert send_all(greeted(3, have=at(9, store_uid="other"))) == ["intent", "chunk", "commit"]


def test_a_higher_revision_than_the_head_is_offered_the_head() -> None:
    assert send_all(greeted(3, have=at(9))) == ["intent", "chunk", "commit"]


# --- progress


def test_phases_move_on_until_the_answer() -> None:
    subscription = greeted(1)
    send_all(subscription)
    for phase in (pb.PHASE_RECEIVED, pb.PHASE_PREPARED):
        subscription.receive(status(at(1), phase), 1)
        assert subscription.progress.phase == phase
    subscription.receive(status(at(1), pb.PHASE_ACTIVE_WITH_ERRORS, serving=at(1)), 1)
    assert subscription.state is State.IDLE
    assert subscription.progress == Progress(
        serving=at(1), target=at(1), phase=pb.PHASE_ACTIVE_WITH_ERRORS, with_errors=True
    )


def test_what_is_served_with_errors_stays_so_when_the_next_is_rejected() -> None:
    subscription = greeted(1)
    send_all(subscription)
    subscription.receive(status(at(1), pb.PHASE_ACTIVE_WITH_ERRORS, serving=at(1)), 1)
    subscription.publish(head(2))
    send_all(subscription)
    subscription.receive(status(at(2), pb.PHASE_REJECTED, serving=at(1), reason="BAD"), 1)
    assert subscription.progress.with_errors
    assert subscription.progress.serving == at(1)


def test_resources_are_handed_on() -> None:
    subscription = greeted(1, have=at(1))
    resource = status_pb2.ResourceStatus(name="models/a", state=status_pb2.RESOURCE_STATE_READY)
    change = subscription.receive(status(serving=at(1), resources=(resource,)), 1)
    assert change.updated == (resource,)
    assert not change.replace


# --- violations


def test_the_first_message_must_be_hello() -> None:
    subscription = Subscription(head=head(1), limits=LIMITS, now_s=0)
    assert refused(subscription, status()).violations
    refused(subscription, pb.SyncRequest())


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.Hello(data_plane="Not an id", instance_uid="i"), "hello.data_plane"),
        (pb.Hello(data_plane="dp"), "hello.instance_uid"),
        (pb.Hello(data_plane="dp", instance_uid="i", rejected=[snapshot_pb2.Position()] * 17), "hello.rejected"),
        (pb.Hello(data_plane="dp", instance_uid="i", have=snapshot_pb2.Position(revision=1)), "hello.have.store_uid"),
        (
            pb.Hello(data_plane="dp", instance_uid="i", have=snapshot_pb2.Position(store_uid="s", digest=b"x")),
            "hello.have.digest",
        ),
    ],
)
def test_an_invalid_hello_names_the_field(message: pb.Hello, field: str) -> None:
    subscription = Subscription(head=head(1), limits=LIMITS, now_s=0)
    violation = refused(subscription, pb.SyncRequest(hello=message))
    assert [one.field for one in violation.violations] == [field]


def test_hello_comes_once() -> None:
    refused(greeted(1), hello())


def test_nobody_rejects_what_he_serves() -> None:
    refused(Subscription(head=head(1), limits=LIMITS, now_s=0), hello(at(1), (at(1),)))


@pytest.mark.parametrize(
    "request_",
    [
        active(at(2)),
        active(at(2, digest=8)),
        status(at(1), pb.PHASE_ACTIVE, serving=None),
        status(at(1), pb.PHASE_ACTIVE, serving=at(2)),
        status(at(2), pb.PHASE_REJECTED, reason="BAD"),
        status(at(1), pb.PHASE_REJECTED, reason=""),
        status(at(1), pb.PHASE_REJECTED, reason="not upper snake"),
        status(at(1), pb.PHASE_REJECTED, serving=at(1), reason="BAD"),
        status(at(1)),
        status(None, pb.PHASE_ACTIVE),
        status(at(2), pb.PHASE_RECEIVED),
        status(at(1), pb.Phase.ValueType(77)),
        status(serving=at(1)),
        status(resources=(status_pb2.ResourceStatus(),)),
        status(resources=(status_pb2.ResourceStatus(name="n" * 257),)),
        status(resources=(status_pb2.ResourceStatus(name="n", message="m" * 4097),)),
    ],
)
def test_illegal_statuses_change_nothing(request_: pb.SyncRequest) -> None:
    subscription = greeted(1)
    send_all(subscription)
    refused(subscription, request_)
    subscription.receive(active(at(1)), 6)
    assert subscription.settled


def test_phases_do_not_move_back() -> None:
    subscription = greeted(1)
    send_all(subscription)
    subscription.receive(status(at(1), pb.PHASE_PREPARED), 1)
    refused(subscription, status(at(1), pb.PHASE_RECEIVED))


def test_nothing_is_active_before_its_commit() -> None:
    subscription = greeted(1)
    subscription.take_output(0)
    refused(subscription, active(at(1)))
    refused(subscription, status(at(1), pb.PHASE_RECEIVED))


def test_what_is_served_does_not_change_by_itself() -> None:
    subscription = greeted(2, have=at(1))
    refused(subscription, status())
    refused(subscription, status(serving=at(2)))


# --- time


def test_a_stream_without_hello_is_overdue() -> None:
    subscription = Subscription(head=head(1), limits=LIMITS, now_s=0)
    assert subscription.overdue(9.9) is None
    assert subscription.overdue(10) == SILENT


def test_an_answer_that_does_not_come_ends_the_stream() -> None:
    subscription = greeted(1)
    send_all(subscription)
    for now_s in range(0, 120, 30):
        subscription.receive(status(), now_s)
    assert subscription.overdue(119) is None
    output = subscription.take_output(120)
    assert isinstance(output, pb.SyncResponse)
    assert output.goodbye.reason == ANSWER_TIMEOUT
    assert subscription.state is State.CLOSED
    assert subscription.take_output(121) is None


def test_an_answered_snapshot_is_not_overdue_later() -> None:
    subscription = greeted(1)
    send_all(subscription)
    subscription.receive(active(at(1)), 100)
    assert subscription.overdue(130) is None


def test_silence_ends_the_stream() -> None:
    subscription = greeted(1, have=at(1))
    assert subscription.overdue(59) is None
    assert subscription.overdue(60) == SILENT


def test_goodbye_goes_before_anything_else_and_says_when_to_return() -> None:
    subscription = greeted(1)
    subscription.take_output(0)
    subscription.end("SUPERSEDED", reconnect_after_s=1.5)
    subscription.end("SHUTTING_DOWN", reconnect_after_s=9)
    output = subscription.take_output(0)
    assert isinstance(output, pb.SyncResponse)
    assert output.goodbye.reason == "SUPERSEDED"
    assert output.goodbye.reconnect_after.ToTimedelta().total_seconds() == 1.5
    assert subscription.in_flight is None
