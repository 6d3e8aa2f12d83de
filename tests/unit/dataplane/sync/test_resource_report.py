"""What is sent of the states of resources, and beside them: traffic, and labels."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from dataplane.snapshot.persistent.sorted_map import SortedMap
from dataplane.sync.events import Identity
from dataplane.sync.resource_report import ResourceReport
from dataplane.sync.subscriber import Subscriber
from tests.raw import POLICY
from tests.unit.dataplane.sync.test_subscriber import opened, sent_messages

STATES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3))


def statuses(numbers: dict[str, int]) -> dict[str, status_pb2.ResourceStatus]:
    return {name: status_pb2.ResourceStatus(name=name, revision_number=number) for name, number in numbers.items()}


class Server:
    """What a control plane knows after all that was sent on a stream."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def receive(self, report: ResourceReport) -> int:
        """Returns how many states were sent."""
        status = pb.Status()
        report.fill(status)
        for name in status.removed:
            del self.known[name]
        self.known |= {resource.name: resource.revision_number for resource in status.resources}
        return len(status.resources) + len(status.removed)


@settings(deadline=None)
@given(steps=st.lists(st.tuples(STATES, st.booleans(), st.sampled_from(("set", "restart", "nothing"))), max_size=12))
def test_the_control_plane_knows_the_current_states(steps: list[tuple[dict[str, int], bool, str]]) -> None:
    report, server = ResourceReport(), Server()
    current: SortedMap[str, status_pb2.ResourceStatus] = SortedMap()
    for numbers, is_sent, what in steps:
        if what == "set":
            current = current.updated(statuses(numbers), current.keys() - numbers.keys())
            report.set(current)
        elif what == "restart":
            report.restart()
            server = Server()
        if is_sent:
            server.receive(report)
            assert server.known == {name: status.revision_number for name, status in current.items()}
            assert not report.is_due


def test_a_state_that_changes_and_changes_back_is_not_sent() -> None:
    report, server = ResourceReport(), Server()
    report.set(statuses({"a": 1, "b": 1}))
    assert server.receive(report) == 2
    report.set(statuses({"a": 2}))
    report.set(statuses({"a": 1, "b": 1}))
    assert not report.is_due


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
