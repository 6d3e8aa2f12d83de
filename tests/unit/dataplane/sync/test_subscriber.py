from __future__ import annotations

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from dataplane.snapshot import rejection
from dataplane.snapshot.policy import Limits, Policy
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, RawEntry
from dataplane.sync.events import Accepted, Candidate, Ended, Identity, Refused, Rejected
from dataplane.sync.resource_report import RESOURCES_PER_STATUS_MAX, STATUS_BYTES_MAX, TEXT_CHARACTERS_MAX
from dataplane.sync.subscriber import Subscriber
from dataplane.sync.transitions import ProtocolViolation, State
from tests.raw import POLICY, adapter, entry_proto, model, position, raws

CATALOG = raws(model("a"), adapter("a", "x"), model("b"))
IDENTITY = Identity(data_plane="dp", instance_uid="i", http_address="http://here", software_version="1.2.3")


def opened(
    serving: Position | None = None, rejected: tuple[Rejected, ...] = (), *, policy: Policy = POLICY
) -> Subscriber:
    subscriber = Subscriber(IDENTITY, policy=policy, serving=serving, rejected=rejected)
    subscriber.open()
    return subscriber


def intent(
    at: Position, count: int = len(CATALOG), mode: pb.Intent.Mode.ValueType = pb.Intent.MODE_FULL
) -> pb.SyncResponse:
    return pb.SyncResponse(intent=pb.Intent(mode=mode, to=at.to_proto(), entry_count=count))


def chunk(*entries: RawEntry) -> pb.SyncResponse:
    return pb.SyncResponse(chunk=pb.Chunk(entries=[entry_proto(entry) for entry in entries]))


def commit(at: Position) -> pb.SyncResponse:
    return pb.SyncResponse(commit=pb.Commit(to=at.to_proto()))


def heartbeat(at: Position) -> pb.SyncResponse:
    return pb.SyncResponse(heartbeat=pb.Heartbeat(head=at.to_proto()))


def deliver(subscriber: Subscriber, at: Position, entries: tuple[RawEntry, ...] = CATALOG) -> Candidate:
    for response in (intent(at, len(entries)), chunk(*entries)):
        assert subscriber.receive(response) is None
    event = subscriber.receive(commit(at))
    assert isinstance(event, Candidate)
    return event


def sent_messages(subscriber: Subscriber) -> list[pb.SyncRequest]:
    messages = []
    while (message := subscriber.take_message()) is not None:
        messages.append(message)
    return messages


def refused(subscriber: Subscriber, response: pb.SyncResponse) -> None:
    before = (subscriber.state, subscriber.serving, subscriber.rejected)
    with pytest.raises(ProtocolViolation) as raised:
        subscriber.receive(response)
    assert raised.value.by == "server"
    assert (subscriber.state, subscriber.serving, subscriber.rejected) == before


def rejection_of(event: object) -> Rejected:
    assert isinstance(event, Refused)
    return event.rejected


def test_a_stream_begins_with_hello_and_then_the_whole_state() -> None:
    at = position(CATALOG, 4)
    other = Rejected(position=position(CATALOG, 5), reason="BAD", message="words")
    subscriber = opened(at, (other,))
    subscriber.report({"models/a": status_pb2.ResourceStatus(name="models/a")})
    hello, active, rejected = sent_messages(subscriber)
    assert hello.hello == pb.Hello(
        data_plane="dp",
        instance_uid="i",
        have=at.to_proto(),
        rejected=[other.position.to_proto()],
        http_address="http://here",
        software_version="1.2.3",
        features=[pb.FEATURE_DELTA],
    )
    assert active.status.replace
    assert active.status.phase == pb.PHASE_ACTIVE
    assert [item.name for item in active.status.resources] == ["models/a"]
    assert (rejected.status.phase, rejected.status.reason, rejected.status.message) == (
        pb.PHASE_REJECTED,
        "BAD",
        "words",
    )
    assert not rejected.status.replace


def test_hello_without_a_snapshot_names_none() -> None:
    hello, status = sent_messages(opened())
    assert not hello.hello.HasField("have")
    assert status.status == pb.Status(replace=True)


def test_a_complete_snapshot_is_a_candidate_until_it_is_decided() -> None:
    at = position(CATALOG, 4)
    subscriber = opened()
    sent_messages(subscriber)
    candidate = deliver(subscriber, at)
    assert candidate == Candidate(position=at, content=CATALOG)
    assert (subscriber.serving, subscriber.deciding) == (None, True)
    assert [item.status.phase for item in sent_messages(subscriber)] == [pb.PHASE_RECEIVED]
    assert subscriber.decided(Accepted(with_errors=True)) is None
    assert subscriber.serving == at
    (message,) = sent_messages(subscriber)
    assert message.status == pb.Status(target=at.to_proto(), serving=at.to_proto(), phase=pb.PHASE_ACTIVE_WITH_ERRORS)


def test_after_a_rejection_the_previous_snapshot_stays_in_service() -> None:
    before, at = position(CATALOG, 3), position(CATALOG, 4)
    subscriber = opened(before)
    sent_messages(subscriber)
    deliver(subscriber, at)
    rejected = subscriber.decided(Rejection(reason="BAD", message="words"))
    assert rejected == Rejected(position=at, reason="BAD", message="words")
    assert subscriber.serving == before
    (message,) = sent_messages(subscriber)
    assert message.status.phase == pb.PHASE_REJECTED
    assert message.status.serving == before.to_proto()
    subscriber.close()
    subscriber.open()
    assert sent_messages(subscriber)[0].hello.rejected == [at.to_proto()]


def test_a_rejected_snapshot_is_refused_at_its_announcement() -> None:
    at = position(CATALOG, 4)
    subscriber = opened(rejected=(Rejected(position=at, reason="BAD", message="words"),))
    assert rejection_of(subscriber.receive(intent(at))).reason == "BAD"
    assert subscriber.receive(chunk(*CATALOG)) is None
    assert subscriber.receive(commit(at)) is None
    assert subscriber.state is State.IDLE


@pytest.mark.parametrize(
    ("at", "count", "reason"),
    [
        (position(CATALOG, 9, store_uid="store-b"), 3, rejection.STORE_UID_MISMATCH),
        (position(CATALOG, 2), 3, rejection.REVISION_LOWER),
        (position(CATALOG[:1], 3), 3, rejection.REVISION_CONFLICT),
        (position(CATALOG, 4), 10_000_000, rejection.SNAPSHOT_TOO_LARGE),
    ],
)
def test_a_position_that_may_not_follow_is_refused_at_its_announcement(at: Position, count: int, reason: str) -> None:
    subscriber = opened(position(CATALOG, 3))
    assert rejection_of(subscriber.receive(intent(at, count))).reason == reason
    assert subscriber.state is State.DISCARDING
    assert subscriber.receive(chunk(*CATALOG)) is None
    better = position(CATALOG, 10)
    deliver(subscriber, better)
    subscriber.decided(Accepted(with_errors=False))
    assert subscriber.serving == better


def test_another_store_is_followed_when_an_operator_allows_it() -> None:
    new = position(CATALOG, 1, store_uid="store-b")
    remembered = Rejected(position=new, reason=rejection.STORE_UID_MISMATCH, message="words")
    policy = Policy(allowed_sources=(), allow_new_store=True)
    subscriber = opened(position(CATALOG, 9), (remembered,), policy=policy)
    assert not subscriber.rejected
    deliver(subscriber, new)


def test_a_snapshot_is_refused_as_soon_as_it_passes_a_limit() -> None:
    subscriber = opened(policy=Policy(allowed_sources=(), limits=Limits(total_bytes_max=100)))
    assert subscriber.receive(intent(position(CATALOG))) is None
    assert rejection_of(subscriber.receive(chunk(*CATALOG))).reason == rejection.SNAPSHOT_TOO_LARGE
    assert subscriber.state is State.DISCARDING


def test_a_snapshot_with_missing_entries_is_refused() -> None:
    at = position(CATALOG)
    subscriber = opened()
    subscriber.receive(intent(at))
    subscriber.receive(chunk(CATALOG[0]))
    assert rejection_of(subscriber.receive(commit(at))).reason == rejection.ENTRY_COUNT_MISMATCH
    assert subscriber.state is State.IDLE


@pytest.mark.parametrize(
    "response",
    [
        pb.SyncResponse(),
        chunk(*CATALOG),
        commit(position(CATALOG)),
        intent(position(CATALOG), mode=pb.Intent.MODE_NONE),
        intent(position(CATALOG), mode=pb.Intent.MODE_UNSPECIFIED),
    ],
)
def test_illegal_messages_change_nothing(response: pb.SyncResponse) -> None:
    subscriber = opened(position(CATALOG, 3))
    refused(subscriber, response)
    deliver(subscriber, position(CATALOG, 4))


def test_illegal_messages_during_a_snapshot_change_nothing() -> None:
    at = position(CATALOG)
    subscriber = opened()
    subscriber.receive(intent(at))
    refused(subscriber, intent(at))
    refused(subscriber, commit(position(CATALOG, 2)))
    subscriber.receive(chunk(*CATALOG))
    assert isinstance(subscriber.receive(commit(at)), Candidate)
    refused(subscriber, intent(position(CATALOG, 2)))


def test_goodbye_closes_the_stream_and_gives_the_reconnect_delay() -> None:
    subscriber = opened()
    goodbye = pb.Goodbye(reason="SHUTTING_DOWN")
    goodbye.reconnect_after.FromMilliseconds(1500)
    assert subscriber.receive(pb.SyncResponse(goodbye=goodbye)) == Ended(reason="SHUTTING_DOWN", reconnect_after_s=1.5)
    assert subscriber.state is State.CLOSED
    assert subscriber.take_message() is None


def test_a_decision_outlives_its_stream() -> None:
    at = position(CATALOG)
    subscriber = opened()
    deliver(subscriber, at)
    subscriber.close()
    assert subscriber.deciding
    subscriber.decided(Accepted(with_errors=False))
    subscriber.open()
    assert sent_messages(subscriber)[0].hello.have == at.to_proto()


def test_a_warning_is_reported_with_active_and_again_on_the_next_stream() -> None:
    at = position(CATALOG)
    subscriber = opened()
    deliver(subscriber, at)
    sent_messages(subscriber)
    subscriber.decided(Accepted(with_errors=False, warning="not on disk"))
    (first,) = sent_messages(subscriber)
    subscriber.close()
    subscriber.open()
    _, again = sent_messages(subscriber)
    for message in (first, again):
        assert (message.status.phase, message.status.message) == (pb.PHASE_ACTIVE, "not on disk")


def test_a_pending_phase_report_keeps_the_serving_position_of_its_time() -> None:
    before, bad, at = position(CATALOG, 3), position(CATALOG, 4), position(CATALOG, 5)
    subscriber = opened(before, (Rejected(position=bad, reason="BAD", message=""),))
    subscriber.take_message()
    deliver(subscriber, at)
    subscriber.decided(Accepted(with_errors=False))
    sent = [(item.status.target, item.status.serving) for item in sent_messages(subscriber)]
    assert sent == [
        (before.to_proto(), before.to_proto()),
        (bad.to_proto(), before.to_proto()),
        (at.to_proto(), at.to_proto()),
    ]


def test_every_heartbeat_is_answered() -> None:
    at = position(CATALOG)
    subscriber = opened(at)
    sent_messages(subscriber)
    for _ in range(3):
        subscriber.receive(heartbeat(at))
        assert [item.status for item in sent_messages(subscriber)] == [pb.Status(serving=at.to_proto())]
    assert subscriber.head == at


# --- resources


def ready(name: str, replicas: int = 1, message: str = "") -> status_pb2.ResourceStatus:
    return status_pb2.ResourceStatus(name=name, ready_replicas=replicas, message=message)


def test_only_the_newest_state_of_changed_resources_is_sent() -> None:
    subscriber = opened()
    subscriber.report({name: ready(name) for name in "abc"})
    sent_messages(subscriber)
    for replicas in range(2, 9):
        subscriber.report({"a": ready("a", replicas), "b": ready("b")})
    (message,) = sent_messages(subscriber)
    assert list(message.status.resources) == [ready("a", 8)]
    assert list(message.status.removed) == ["c"]
    subscriber.report({"a": ready("a", 8), "b": ready("b")})
    assert sent_messages(subscriber) == []


def test_a_state_that_reverted_before_it_was_sent_is_not_sent() -> None:
    subscriber = opened()
    subscriber.report({"a": ready("a")})
    sent_messages(subscriber)
    subscriber.report({"a": ready("a", 2)})
    subscriber.report({"a": ready("a")})
    assert sent_messages(subscriber) == []


def test_states_are_split_over_messages() -> None:
    names = [f"n{number:05}" for number in range(2500)]
    subscriber = opened()
    subscriber.report({name: ready(name) for name in names})
    messages = [item.status for item in sent_messages(subscriber)[1:]]
    assert [len(item.resources) for item in messages] == [RESOURCES_PER_STATUS_MAX, RESOURCES_PER_STATUS_MAX, 500]
    assert [item.replace for item in messages] == [True, False, False]
    assert [item.name for message in messages for item in message.resources] == names
    subscriber.report({})
    removed = [name for item in sent_messages(subscriber) for name in item.status.removed]
    assert removed == names


def test_long_states_are_split_by_size_and_shortened() -> None:
    subscriber = opened()
    subscriber.report({f"n{number}": ready(f"n{number}", message="é" * 5000 + "cause") for number in range(500)})
    messages = sent_messages(subscriber)[1:]
    assert max(item.ByteSize() for item in messages) < STATUS_BYTES_MAX + 20_000
    assert sum(len(item.status.resources) for item in messages) == 500
    shown = messages[0].status.resources[0].message
    assert len(shown) == TEXT_CHARACTERS_MAX
    assert shown.endswith("cause")


def test_after_a_reconnect_every_state_is_sent_again() -> None:
    subscriber = opened()
    subscriber.report({"a": ready("a")})
    sent_messages(subscriber)
    subscriber.close()
    subscriber.open()
    _, status = sent_messages(subscriber)
    assert status.status.replace
    assert list(status.status.resources) == [ready("a")]


def test_a_rejection_that_is_taken_back_is_in_no_hello_and_its_snapshot_is_received() -> None:
    older, newer = position(CATALOG, 1), position(CATALOG, 2)
    rejected = Rejected(position=newer, reason="BAD", message="words")
    subscriber = opened(older, (rejected,))
    assert subscriber.take_back([newer], instance_uid="i-2")
    subscriber.close()
    subscriber.open()
    hello, *statuses = sent_messages(subscriber)
    assert (hello.hello.instance_uid, list(hello.hello.rejected)) == ("i-2", [])
    assert [message.status.phase for message in statuses] == [pb.PHASE_ACTIVE]
    assert deliver(subscriber, newer).position == newer


def test_a_rejection_taken_back_before_hello_is_written_is_not_reported() -> None:
    newer = position(CATALOG, 2)
    subscriber = opened(None, (Rejected(position=newer, reason="BAD", message="words"),))
    assert subscriber.take_back([newer], instance_uid="i-2")
    assert not any(message.status.HasField("target") for message in sent_messages(subscriber))


def test_a_rejection_behind_the_snapshot_in_service_is_not_taken_back() -> None:
    older, newer = position(CATALOG, 1), position(CATALOG, 2)
    subscriber = opened(newer, (Rejected(position=older, reason="BAD", message="words"),))
    assert not subscriber.take_back([older, position(CATALOG, 3)], instance_uid="i-2")
    assert sent_messages(subscriber)[0].hello.instance_uid == IDENTITY.instance_uid


def test_the_newest_sixteen_rejections_are_remembered() -> None:
    subscriber = opened()
    sent_messages(subscriber)
    for revision in range(1, 21):
        deliver(subscriber, position(CATALOG, revision))
        subscriber.decided(Rejection(reason="BAD", message=""))
    assert [item.position.revision for item in subscriber.rejected] == list(range(5, 21))


def test_what_a_candidate_waits_for_is_reported_while_it_is_not_decided() -> None:
    subscriber = opened()
    at = position(CATALOG)
    subscriber.waits("no candidate")
    deliver(subscriber, at)
    subscriber.waits("ingress replicas: a, b")
    subscriber.waits("ingress replicas: b")
    reported = [message.status for message in sent_messages(subscriber) if message.status.HasField("target")]
    assert [(status.phase, status.message) for status in reported] == [
        (pb.PHASE_RECEIVED, ""),
        (pb.PHASE_PREPARED, "ingress replicas: b"),
    ]
    subscriber.decided(Accepted(with_errors=False))
    assert [message.status.phase for message in sent_messages(subscriber)] == [pb.PHASE_ACTIVE]


def test_what_a_candidate_waits_for_is_not_reported_on_a_closed_stream() -> None:
    subscriber = opened()
    deliver(subscriber, position(CATALOG))
    subscriber.close()
    subscriber.waits("ingress replicas: a")
    subscriber.decided(Accepted(with_errors=False))
    subscriber.open()
    phases = [message.status.phase for message in sent_messages(subscriber) if message.status.HasField("target")]
    assert phases == [pb.PHASE_ACTIVE]
