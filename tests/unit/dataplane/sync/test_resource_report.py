"""What is sent beside the states of resources: traffic, and labels."""

from __future__ import annotations

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.sync.events import Identity
from dataplane.sync.subscriber import Subscriber
from tests.raw import POLICY
from tests.unit.dataplane.sync.test_subscriber import opened, sent_messages


def test_traffic_is_sent_when_it_has_changed_and_again_on_the_next_stream() -> None:
    subscriber = opened()
    subscriber.report({}, pb.Traffic(requests=5, failures=1))
    first = sent_messages(subscriber)
    assert [message.status.traffic for message in first if message.status.HasField("traffic")] == [
        pb.Traffic(requests=5, failures=1)
    ]
    subscriber.report({}, pb.Traffic(requests=5, failures=1))
    subscriber.report({})
    assert sent_messages(subscriber) == []
    subscriber.close()
    subscriber.open()
    again = [message.status for message in sent_messages(subscriber) if message.HasField("status")]
    # With the states of all resources: the control plane compares both with what comes later.
    assert [(status.replace, status.traffic.requests) for status in again] == [(True, 5)]


def test_labels_are_in_hello() -> None:
    identity = Identity(data_plane="dp", instance_uid="i", labels={"region": "eu"})
    subscriber = Subscriber(identity, policy=POLICY, serving=None)
    subscriber.open()
    hello = subscriber.take_message()
    assert hello is not None
    assert dict(hello.hello.labels) == {"region": "eu"}
