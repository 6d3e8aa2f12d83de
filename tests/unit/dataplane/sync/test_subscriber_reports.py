"""What is reported of a candidate until it is decided."""

from __future__ import annotations

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.sync.events import Accepted
from tests.raw import position
from tests.unit.dataplane.sync.test_subscriber import CATALOG, deliver, opened, sent_messages


def test_that_a_candidate_has_arrived_is_reported_if_its_decision_takes_long() -> None:
    subscriber = opened()
    subscriber.takes_long()
    at = position(CATALOG)
    deliver(subscriber, at)
    sent_messages(subscriber)
    subscriber.takes_long()
    (message,) = sent_messages(subscriber)
    assert message.status == pb.Status(target=at.to_proto(), phase=pb.PHASE_RECEIVED)
    subscriber.takes_long()
    subscriber.decided(Accepted(with_errors=False))
    assert [message.status.phase for message in sent_messages(subscriber)] == [pb.PHASE_ACTIVE]


def test_that_a_candidate_has_arrived_is_not_reported_after_what_it_waits_for() -> None:
    subscriber = opened()
    deliver(subscriber, position(CATALOG))
    subscriber.waits("ingress replicas: a")
    subscriber.takes_long()
    phases = [message.status.phase for message in sent_messages(subscriber) if message.status.HasField("target")]
    assert phases == [pb.PHASE_PREPARED]


def test_what_a_candidate_waits_for_is_reported_while_it_is_not_decided() -> None:
    subscriber = opened()
    at = position(CATALOG)
    subscriber.waits("no candidate")
    deliver(subscriber, at)
    subscriber.takes_long()
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
