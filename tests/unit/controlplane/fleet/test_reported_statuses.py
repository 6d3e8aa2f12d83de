from __future__ import annotations

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from controlplane.catalog.convert import position_to_proto
from controlplane.catalog.domain import Identity
from controlplane.fleet import known as fleet_known
from tests.unit.controlplane.fleet_world import World, at, resource


async def test_an_unreported_adapter_is_idle_where_its_revision_is_served() -> None:
    world = World(revision=9)
    await world.connect("b-old", have=at(4))
    await world.connect("a-new", have=at(9))
    reporting = await world.connect("c-loud", have=at(9))
    world.say(reporting, pb.Status(serving=position_to_proto(at(9)), resources=[resource("models/m/adapters/a")]))
    statuses = world.fleet.statuses.of("models/m/adapters/a", idle_since_revision=7)
    assert [(status.data_plane, status.status.state) for status in statuses] == [
        ("dataPlanes/a-new", status_pb2.RESOURCE_STATE_IDLE),
        ("dataPlanes/c-loud", status_pb2.RESOURCE_STATE_READY),
    ]
    reported = world.fleet.statuses.of("models/m/adapters/a")
    assert [status.data_plane for status in reported] == ["dataPlanes/c-loud"]


async def test_statuses_outlive_the_stream_but_not_its_successor() -> None:
    world = World()
    stream = await world.connect()
    world.say(stream, pb.Status(resources=[resource("models/a"), resource("models/b")]))
    world.say(stream, pb.Status(removed=["models/b"]))
    world.fan_out.detach(stream)
    (status,) = world.fleet.statuses.of("models/a")
    assert not status.connected
    assert not world.fleet.statuses.of("models/b")
    world.say(await world.connect(), pb.Status(replace=True))
    assert not world.fleet.statuses.of("models/a")


async def test_only_connected_data_planes_are_observed() -> None:
    world = World()
    reporting, silent = await world.connect("a"), await world.connect("b")
    world.say(reporting, pb.Status(resources=[resource("models/m")]))
    gone = await world.connect("c")
    world.fan_out.detach(gone)
    assert [(seen.data_plane, seen.state) for seen in world.fleet.statuses.observed("models/m")] == [
        ("dataPlanes/a", status_pb2.RESOURCE_STATE_READY),
        ("dataPlanes/b", status_pb2.RESOURCE_STATE_UNSPECIFIED),
    ]
    world.fan_out.detach(silent)
    assert [seen.data_plane for seen in world.fleet.statuses.observed("models/m")] == ["dataPlanes/a"]


async def test_a_data_plane_that_anybody_could_have_made_up_does_not_vote() -> None:
    world = World()
    for identity in Identity:
        stream = await world.connect(identity.value, identity=identity)
        world.say(stream, pb.Status(resources=[resource("models/m")]))
    voters = [seen.data_plane for seen in world.fleet.statuses.observed("models/m")]
    assert voters == ["dataPlanes/bound", "dataPlanes/local"]
    assert len(world.fleet.statuses.of("models/m")) == 3


async def test_the_vote_goes_with_the_credential_of_the_newest_stream() -> None:
    world = World()
    await world.connect(identity=Identity.SHARED)
    assert not world.fleet.statuses.observed("models/m")
    await world.connect(identity=Identity.BOUND)
    assert len(world.fleet.statuses.observed("models/m")) == 1


async def test_the_states_of_a_resource_are_those_at_connected_data_planes() -> None:
    world = World(revision=9)
    first, second = await world.connect("a", have=at(9)), await world.connect("b", have=at(4))
    failed = status_pb2.ResourceStatus(name="models/m", state=status_pb2.RESOURCE_STATE_FAILED)
    world.say(first, pb.Status(serving=position_to_proto(at(9)), resources=[resource("models/m")]))
    world.say(second, pb.Status(serving=position_to_proto(at(4)), resources=[failed]))
    states = world.fleet.statuses.states_of
    assert states("models/m") == {status_pb2.RESOURCE_STATE_READY, status_pb2.RESOURCE_STATE_FAILED}
    assert states("models/m/adapters/a", idle_since_revision=7) == {status_pb2.RESOURCE_STATE_IDLE}
    world.fan_out.detach(second)
    assert states("models/m") == {status_pb2.RESOURCE_STATE_READY}
    assert states("models/unreported") == set()


async def test_the_order_of_the_fleet_is_computed_when_it_changes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []

    def counted(data_plane_id: str) -> str:
        named.append(data_plane_id)
        return f"dataPlanes/{data_plane_id}"

    monkeypatch.setattr(fleet_known, "data_plane_name", counted)
    world = World()
    for number in range(50):
        world.say(await world.connect(f"dp-{number:02d}"), pb.Status(resources=[resource("models/m")]))
    for _ in range(100):
        assert len(world.fleet.statuses.of("models/m")) == 50
        assert world.fleet.statuses.states_of("models/m") == {status_pb2.RESOURCE_STATE_READY}
    assert len(named) == 50
    await world.connect("another")
    world.fleet.statuses.of("models/m")
    assert len(named) == 50 + 51
