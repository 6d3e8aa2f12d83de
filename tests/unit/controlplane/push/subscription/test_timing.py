from __future__ import annotations

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.push.subscription.goodbyes import ANSWER_TIMEOUT, SILENT
from controlplane.push.subscription.machine import Subscription
from controlplane.push.subscription.states import State
from tests.unit.controlplane.push.subscription.client import (
    LIMITS,
    active,
    at,
    greeted,
    head,
    send_all,
    status,
)


def test_a_stream_without_hello_is_overdue() -> None:
    subscription = Subscription(head=head(1), limits=LIMITS, now_s=0)
    assert subscription.overdue(9.9) is None
    assert subscription.overdue(10) == SILENT


def test_a_missing_answer_ends_the_stream() -> None:
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


def test_goodbye_is_sent_first_and_says_when_to_reconnect() -> None:
    subscription = greeted(1)
    subscription.take_output(0)
    subscription.end("SUPERSEDED", reconnect_after_s=1.5)
    subscription.end("SHUTTING_DOWN", reconnect_after_s=9)
    output = subscription.take_output(0)
    assert isinstance(output, pb.SyncResponse)
    assert output.goodbye.reason == "SUPERSEDED"
    assert output.goodbye.reconnect_after.ToTimedelta().total_seconds() == 1.5
    assert subscription.oldest_in_use is None
