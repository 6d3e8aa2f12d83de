from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from controlplane.catalog.convert import position_to_proto
from controlplane.catalog.domain import DataPlaneRecord, Entry, Head, Position
from controlplane.errors import ResourceExhausted, Unavailable
from controlplane.push import hub as hub_module
from controlplane.push.hub import Hub, HubSettings, Outcome, Stream
from controlplane.push.subscription.machine import Limits, ProtocolViolation, ResourceChange, Subscription


class Records:
    """A store of data planes that counts writes."""

    def __init__(self) -> None:
        self.records: dict[str, DataPlaneRecord] = {}
        self.writes = 0

    async def upsert_data_plane(self, record: DataPlaneRecord) -> None:
        self.writes += 1
        self.records[record.id] = record

    async def get_data_plane(self, data_plane_id: str) -> DataPlaneRecord | None:
        return self.records.get(data_plane_id)

    async def read_entries(self, revision: int, *, after_name: str, limit: int) -> Sequence[Entry]:
        raise AssertionError("nothing is sent here")


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def at(revision: int, store_uid: str = "s") -> Position:
    return Position(store_uid=store_uid, revision=revision, digest=bytes([revision % 256]) * 32)


def make_hub(revision: int = 5, settings: HubSettings | None = None) -> tuple[Hub, Records, Clock]:
    records, clock = Records(), Clock()
    return Hub(records, head=Head(position=at(revision), entry_count=0), now=clock, settings=settings), records, clock


async def connect(
    hub: Hub, data_plane_id: str = "dp", *, have: Position | None = None, rejected: Sequence[Position] = ()
) -> Stream:
    stream = Stream(Subscription(head=hub.head, limits=Limits(), now_s=0))
    hello = pb.Hello(
        data_plane=data_plane_id,
        instance_uid="i",
        have=position_to_proto(have) if have else None,
        rejected=[position_to_proto(one) for one in rejected],
    )
    stream.subscription.receive(pb.SyncRequest(hello=hello), 0)
    await hub.prepare(data_plane_id)
    hub.attach(stream)
    return stream


async def settle() -> None:
    """Let the hub's writer run."""
    for _ in range(5):
        await asyncio.sleep(0)


def say(hub: Hub, stream: Stream, status: pb.Status) -> None:
    hub.heard(stream, stream.subscription.receive(pb.SyncRequest(status=status), 0))


async def test_the_store_is_written_when_something_changes_and_slowly_otherwise() -> None:
    hub, records, clock = make_hub(settings=HubSettings(last_seen_write_s=30))
    running = asyncio.create_task(hub.run())
    stream = await connect(hub, have=at(5))
    await settle()
    assert records.writes == 1
    for _ in range(29):
        clock.now += timedelta(seconds=1)
        say(hub, stream, pb.Status(serving=position_to_proto(at(5))))
        await settle()
    assert records.writes == 1
    clock.now += timedelta(seconds=1)
    say(hub, stream, pb.Status(serving=position_to_proto(at(5))))
    await settle()
    assert records.writes == 2
    assert records.records["dp"].last_seen_time == clock.now
    running.cancel()


async def test_a_burst_of_changes_is_written_once() -> None:
    hub, records, _ = make_hub()
    for number in range(100):
        await connect(hub, f"dp-{number % 4}")
    assert records.writes == 0
    running = asyncio.create_task(hub.run())
    await settle()
    assert records.writes == 4
    running.cancel()


async def test_no_more_data_planes_are_let_in_than_are_remembered() -> None:
    hub, _, _ = make_hub(settings=HubSettings(data_planes_max=2))
    for data_plane_id in ("a", "b", "a"):
        await connect(hub, data_plane_id)
    with pytest.raises(ResourceExhausted):
        await connect(hub, "c")


async def test_a_stopping_hub_takes_no_streams() -> None:
    hub, _, _ = make_hub()
    await hub.shutdown()
    with pytest.raises(Unavailable):
        await connect(hub)


async def test_a_commit_between_hello_and_attachment_is_not_missed() -> None:
    hub, _, _ = make_hub(revision=5)
    stream = Stream(Subscription(head=hub.head, limits=Limits(), now_s=0))
    hub.publish(Head(position=at(6), entry_count=0))
    hello = pb.Hello(data_plane="dp", instance_uid="i", have=position_to_proto(at(5)))
    stream.subscription.receive(pb.SyncRequest(hello=hello), 0)
    hub.attach(stream)
    output = stream.subscription.take_output(0)
    assert isinstance(output, pb.SyncResponse)
    assert output.intent.to == position_to_proto(at(6))


# --- statuses of resources


def resource(name: str) -> status_pb2.ResourceStatus:
    return status_pb2.ResourceStatus(name=name, state=status_pb2.RESOURCE_STATE_READY)


async def test_an_adapter_nobody_reports_is_idle_where_its_revision_is_served() -> None:
    hub, _, _ = make_hub(revision=9)
    await connect(hub, "b-old", have=at(4))
    await connect(hub, "a-new", have=at(9))
    reporting = await connect(hub, "c-loud", have=at(9))
    say(hub, reporting, pb.Status(serving=position_to_proto(at(9)), resources=[resource("models/m/adapters/a")]))
    statuses = hub.resource_statuses("models/m/adapters/a", idle_since_revision=7)
    assert [(one.data_plane, one.status.state) for one in statuses] == [
        ("dataPlanes/a-new", status_pb2.RESOURCE_STATE_IDLE),
        ("dataPlanes/c-loud", status_pb2.RESOURCE_STATE_READY),
    ]
    assert [one.data_plane for one in hub.resource_statuses("models/m/adapters/a")] == ["dataPlanes/c-loud"]


async def test_states_outlive_the_stream_and_not_its_successor() -> None:
    hub, _, _ = make_hub()
    stream = await connect(hub)
    say(hub, stream, pb.Status(resources=[resource("models/a"), resource("models/b")]))
    say(hub, stream, pb.Status(removed=["models/b"]))
    hub.detach(stream)
    (status,) = hub.resource_statuses("models/a")
    assert not status.connected
    assert not hub.resource_statuses("models/b")
    say(hub, await connect(hub), pb.Status(replace=True))
    assert not hub.resource_statuses("models/a")


async def test_what_a_superseded_stream_says_does_not_count() -> None:
    hub, _, _ = make_hub()
    old = await connect(hub)
    new = await connect(hub)
    hub.heard(old, ResourceChange(updated=(resource("models/a"),)))
    hub.detach(old)
    assert not hub.resource_statuses("models/a")
    view = hub.data_plane("dp")
    assert view is not None
    assert view.connected
    hub.detach(new)


async def test_states_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "RESOURCES_MAX", 10)
    hub, _, _ = make_hub()
    stream = await connect(hub)
    say(hub, stream, pb.Status(resources=[resource(f"models/m{number}") for number in range(10)]))
    with pytest.raises(ProtocolViolation):
        say(hub, stream, pb.Status(resources=[resource("models/more")]))


# --- waiting


async def outcome_of(hub: Hub, revision: int) -> Outcome:
    (outcome,) = await hub.wait_for_revision(revision, ["dp"], 0)
    return outcome.outcome


@pytest.mark.parametrize(
    ("have", "rejected", "outcome"),
    [
        (at(9), (), Outcome.ACTIVE),
        (at(8), (), Outcome.ACTIVE),
        (at(7), (), Outcome.PENDING),
        (None, (), Outcome.PENDING),
        (at(7), (at(9),), Outcome.REJECTED),
        # It has rejected an older one; what is under way now may be accepted.
        (at(7), (at(8),), Outcome.PENDING),
        (at(9, "other"), (), Outcome.PENDING),
        (at(9, "other"), (at(9),), Outcome.REJECTED),
        # The store has lost revisions that this data plane has: it serves none of the present ones.
        (at(20), (), Outcome.PENDING),
        (at(20), (at(9),), Outcome.REJECTED),
    ],
)
async def test_outcomes(have: Position | None, rejected: tuple[Position, ...], outcome: Outcome) -> None:
    hub, _, _ = make_hub(revision=9)
    stream = await connect(hub, have=have, rejected=rejected)
    assert await outcome_of(hub, 8) is outcome
    hub.detach(stream)
    assert await outcome_of(hub, 8) is Outcome.MISSING


async def test_waiting_ends_with_the_last_answer() -> None:
    hub, _, _ = make_hub(revision=0)
    stream = await connect(hub)
    waiting = asyncio.create_task(hub.wait_for_revision(0, ["dp"], 60))
    await settle()
    for _ in range(2):
        stream.subscription.take_output(0)
    zero = position_to_proto(at(0))
    say(hub, stream, pb.Status(target=zero, phase=pb.PHASE_RECEIVED))
    await settle()
    assert not waiting.done()
    say(hub, stream, pb.Status(target=zero, serving=zero, phase=pb.PHASE_ACTIVE_WITH_ERRORS))
    (outcome,) = await waiting
    assert outcome.outcome is Outcome.ACTIVE_WITH_ERRORS


async def test_a_stopping_hub_answers_those_who_wait() -> None:
    hub, _, _ = make_hub(settings=HubSettings(shutdown_grace_s=0))
    await connect(hub)
    waiting = asyncio.create_task(hub.wait_for_revision(5, ["dp"], 60))
    await settle()
    await hub.shutdown()
    (outcome,) = await waiting
    assert outcome.outcome is Outcome.PENDING


async def test_those_who_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "WAITERS_MAX", 1)
    hub, _, _ = make_hub()
    await connect(hub)
    waiting = asyncio.create_task(hub.wait_for_revision(5, ["dp"], 60))
    await settle()
    with pytest.raises(ResourceExhausted):
        await hub.wait_for_revision(5, ["dp"], 60)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await hub.wait_for_revision(5, ["nobody"], 60)
