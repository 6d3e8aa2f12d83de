from __future__ import annotations

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from controlplane.catalog.convert import position_to_proto
from controlplane.catalog.domain import Head
from controlplane.errors import ResourceExhausted, Unavailable
from controlplane.fleet.data_plane import Session
from controlplane.fleet.progress import Progress, ResourceChange
from controlplane.fleet.state import SPARE_STATUSES, STATUSES_PER_ENTRY, FleetLimits, FleetState
from tests.unit.controlplane.fleet_world import Clock, World, at, head, hello, resource


async def test_no_more_data_planes_are_admitted_than_are_remembered() -> None:
    world = World(limits=FleetLimits(data_planes_max=2))
    for data_plane_id in ("a", "b", "a"):
        await world.connect(data_plane_id)
    with pytest.raises(ResourceExhausted):
        await world.connect("c")


async def test_a_stopping_control_plane_takes_no_streams() -> None:
    world = World()
    await world.fan_out.shutdown()
    with pytest.raises(Unavailable):
        await world.connect()


async def test_a_stream_that_is_attached_during_shutdown_gets_a_goodbye() -> None:
    world = World()
    stream = world.stream()
    stream.subscription.receive(hello(), 0)
    session = await world.fan_out.prepare("dp")
    await world.fan_out.shutdown()
    world.fan_out.attach(stream, session)
    output = stream.subscription.take_output(0)
    assert isinstance(output, pb.SyncResponse)
    assert output.goodbye.reason == "SHUTTING_DOWN"


async def test_a_commit_between_hello_and_attachment_is_not_missed() -> None:
    world = World(revision=5)
    stream = world.stream()
    world.fan_out.publish(head(6))
    stream.subscription.receive(hello(have=at(5)), 0)
    world.fan_out.attach(stream, await world.fan_out.prepare("dp"))
    output = stream.subscription.take_output(0)
    assert isinstance(output, pb.SyncResponse)
    assert output.intent.to == position_to_proto(at(6))


async def test_an_older_head_is_ignored() -> None:
    world = World(revision=5)
    world.fan_out.publish(head(4))
    assert world.fan_out.head == head(5)


async def test_reports_of_a_superseded_stream_are_ignored() -> None:
    world = World()
    old = await world.connect()
    new = await world.connect()
    world.fan_out.received(old, ResourceChange(updated=(resource("models/a"),)))
    world.fan_out.detach(old)
    assert not world.fleet.statuses.of("models/a")
    view = world.fleet.state.view("dp")
    assert view is not None
    assert view.connected
    world.fan_out.detach(new)


async def test_of_two_streams_the_one_that_was_prepared_last_counts() -> None:
    world = World()
    first, second = world.stream(), world.stream()
    for stream in (first, second):
        stream.subscription.receive(hello(), 0)
    first_session = await world.fan_out.prepare("dp")
    second_session = await world.fan_out.prepare("dp")
    world.fan_out.attach(second, second_session)
    world.fan_out.attach(first, first_session)
    output = first.subscription.take_output(0)
    assert isinstance(output, pb.SyncResponse)
    assert output.goodbye.reason == "SUPERSEDED"
    world.fan_out.received(second, ResourceChange(updated=(resource("models/a"),)))
    assert world.fleet.statuses.of("models/a")


async def test_the_oldest_snapshot_in_flight_is_in_use() -> None:
    world = World(revision=5)
    assert [world.fan_out.oldest_in_use] == [None]
    older = await world.connect("a")
    older.subscription.take_output(0)
    world.fan_out.publish(head(6))
    newer = await world.connect("b")
    newer.subscription.take_output(0)
    assert world.fan_out.oldest_in_use == 5
    world.fan_out.detach(older)
    assert world.fan_out.oldest_in_use == 6


async def test_made_up_names_of_a_data_plane_are_dropped_beyond_what_the_catalog_can_have() -> None:
    world = World()
    world.fan_out.publish(Head(position=at(6), entry_count=10))
    stream = await world.connect()
    for batch in range(50):
        names = [f"models/made-up-{batch}-{number}" for number in range(100)]
        world.say(stream, pb.Status(resources=[resource(name) for name in names]))
    assert len(world.fleet.state.resources("dp")) == STATUSES_PER_ENTRY * 10 + SPARE_STATUSES
    # What is known still changes, and a new list begins anew.
    failed = status_pb2.ResourceStatus(name="models/made-up-0-0", state=status_pb2.RESOURCE_STATE_FAILED)
    world.say(stream, pb.Status(resources=[failed]))
    assert world.fleet.statuses.of(failed.name)[0].status == failed
    world.say(stream, pb.Status(replace=True, resources=[resource("models/m")]))
    assert [status.name for status in world.fleet.state.resources("dp")] == ["models/m"]


def test_the_removal_of_a_name_that_was_never_reported_is_not_written() -> None:
    state, now = FleetState(head=head(5), shares_statuses=True), Clock().now
    stream = World().stream()
    state.attach(pb.Hello(data_plane="dp"), Progress(), stream, Session(1), now=now)
    change = ResourceChange(updated=(resource("models/a"),), removed=("models/made-up",))
    state.report("dp", stream, Progress(), change, now=now)
    (report,) = state.take_reports(1)
    assert report.statuses == {"models/a": resource("models/a")}
