from __future__ import annotations

import pytest

from broadsheet.v1 import snapshot_pb2, status_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.fleet.progress import Progress
from controlplane.push.subscription.machine import Subscription
from controlplane.push.subscription.states import State
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
)


def test_phases_advance_until_the_answer() -> None:
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


def test_a_rejection_does_not_clear_the_errors_of_what_is_served() -> None:
    subscription = greeted(1)
    send_all(subscription)
    subscription.receive(status(at(1), pb.PHASE_ACTIVE_WITH_ERRORS, serving=at(1)), 1)
    subscription.publish(head(2))
    send_all(subscription)
    subscription.receive(status(at(2), pb.PHASE_REJECTED, serving=at(1), reason="BAD"), 1)
    assert subscription.progress.with_errors
    assert subscription.progress.serving == at(1)


def test_resource_statuses_are_returned() -> None:
    subscription = greeted(1, have=at(1))
    resource = status_pb2.ResourceStatus(name="models/a", state=status_pb2.RESOURCE_STATE_READY)
    change = subscription.receive(status(serving=at(1), resources=(resource,)), 1)
    assert change.updated == (resource,)
    assert not change.replace


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
    assert [invalid.field for invalid in violation.violations] == [field]


def test_hello_comes_once() -> None:
    refused(greeted(1), hello())


def test_hello_cannot_reject_what_is_served() -> None:
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


def test_what_a_data_plane_waits_for_is_shown_until_the_snapshot_is_active() -> None:
    subscription = greeted(1)
    send_all(subscription)
    for words in ("ingress replicas: a, b", "ingress replicas: b"):
        waiting = status(at(1), pb.PHASE_PREPARED)
        waiting.status.message = words
        subscription.receive(waiting, 1)
        assert (subscription.progress.reason, subscription.progress.message) == ("", words)
    subscription.receive(active(at(1)), 2)
    assert subscription.progress.message == ""


def test_phases_do_not_go_back() -> None:
    subscription = greeted(1)
    send_all(subscription)
    subscription.receive(status(at(1), pb.PHASE_PREPARED), 1)
    refused(subscription, status(at(1), pb.PHASE_RECEIVED))


def test_a_snapshot_is_not_active_before_its_commit() -> None:
    subscription = greeted(1)
    subscription.take_output(0)
    refused(subscription, active(at(1)))
    refused(subscription, status(at(1), pb.PHASE_RECEIVED))


def test_what_is_served_changes_only_to_what_was_committed() -> None:
    subscription = greeted(2, have=at(1))
    refused(subscription, status())
    refused(subscription, status(serving=at(2)))


NUL = "a\0b"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.Hello(data_plane="dp", instance_uid=NUL), "hello.instance_uid"),
        (pb.Hello(data_plane="dp", instance_uid="i", http_address=NUL), "hello.http_address"),
        (pb.Hello(data_plane="dp", instance_uid="i", software_version=NUL), "hello.software_version"),
        (pb.Status(message=NUL), "status.message"),
        (pb.Status(removed=["models/a", NUL]), "status.removed[1]"),
        (pb.Status(resources=[status_pb2.ResourceStatus(name=NUL)]), "status.resources[0].name"),
        (pb.Status(resources=[status_pb2.ResourceStatus(name="m", message=NUL)]), "status.resources[0].message"),
    ],
)
def test_text_that_postgresql_cannot_store_is_refused_by_field(request_: pb.Hello | pb.Status, field: str) -> None:
    if isinstance(request_, pb.Hello):
        subscription, message = Subscription(head=head(1), limits=LIMITS, now_s=0), pb.SyncRequest(hello=request_)
    else:
        subscription, message = greeted(1), pb.SyncRequest(status=request_)
    assert [invalid.field for invalid in refused(subscription, message).violations] == [field]


@pytest.mark.parametrize("name", ["", "n" * 257])
def test_a_removed_name_has_the_length_of_a_name(name: str) -> None:
    # A longer one would not fit into the index of statuses on PostgreSQL.
    violation = refused(greeted(1), pb.SyncRequest(status=pb.Status(removed=[name])))
    assert [invalid.field for invalid in violation.violations] == ["status.removed"]
