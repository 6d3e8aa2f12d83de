from __future__ import annotations

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import position_to_proto
from controlplane.errors import ResourceExhausted, Unavailable
from controlplane.fleet import state as fleet_state
from controlplane.fleet.progress import ResourceChange
from controlplane.fleet.state import FleetLimits
from controlplane.push.subscription.violations import ProtocolViolation
from tests.unit.controlplane.fleet_world import World, at, head, hello, resource


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


async def test_resource_statuses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_state, "RESOURCES_MAX", 10)
    world = World()
    stream = await world.connect()
    world.say(stream, pb.Status(resources=[resource(f"models/m{number}") for number in range(10)]))
    with pytest.raises(ProtocolViolation):
        world.say(stream, pb.Status(resources=[resource("models/more")]))
