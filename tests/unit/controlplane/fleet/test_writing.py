from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import position_to_proto
from controlplane.fleet.changed import Changed
from controlplane.fleet.data_plane import Session
from controlplane.fleet.progress import Progress, ResourceChange
from controlplane.fleet.state import FleetLimits, FleetState
from controlplane.fleet.writing import SINGLE_FAILURES_MAX, FleetWriter, WritingSettings
from controlplane.store.fleet.reports import FleetReport
from tests.unit.controlplane.fleet_world import Clock, World, at, head, resource, settle


async def test_changes_are_written_at_once_and_last_seen_times_rarely() -> None:
    world = World(limits=FleetLimits(last_seen_write_s=30))
    records, clock = world.records, world.clock
    running = asyncio.create_task(world.fleet.writer.run())
    stream = await world.connect(have=at(5))
    await settle()
    assert records.writes == 1
    for _ in range(29):
        clock.now += timedelta(seconds=1)
        world.say(stream, pb.Status(serving=position_to_proto(at(5))))
        await settle()
    assert records.writes == 1
    clock.now += timedelta(seconds=1)
    world.say(stream, pb.Status(serving=position_to_proto(at(5))))
    await settle()
    assert records.writes == 2
    assert records.records["dp"].last_seen_time == clock.now
    running.cancel()


async def test_what_a_data_plane_reports_soon_after_a_write_is_written_together() -> None:
    world = World(write_pause_s=0.05)
    running = asyncio.create_task(world.fleet.writer.run())
    stream = await world.connect(have=at(5))
    await settle()
    assert world.records.writes == 1
    for message in ("one", "two", "three"):
        status = pb.Status(
            target=position_to_proto(at(5)),
            serving=position_to_proto(at(5)),
            phase=pb.PHASE_ACTIVE,
            message=message,
        )
        world.say(stream, status)
        await settle()
    assert world.records.writes == 1
    await asyncio.sleep(0.1)
    assert world.records.writes == 2
    assert world.records.records["dp"].message == "three"
    running.cancel()


async def test_a_burst_of_changes_is_written_once() -> None:
    world = World()
    for number in range(100):
        await world.connect(f"dp-{number % 4}")
    assert world.records.writes == 0
    running = asyncio.create_task(world.fleet.writer.run())
    await settle()
    assert len(world.records.records) == 4
    assert world.records.writes == 1
    running.cancel()


class FailingStore:
    """Keeps reports, or fails."""

    def __init__(self) -> None:
        self.failing = False
        self.reports: list[FleetReport] = []

    async def put(self, reports: Sequence[FleetReport]) -> None:
        if self.failing:
            raise OSError("the disk is full")
        self.reports.extend(reports)


class RefusingStore:
    """Takes a batch as a whole or not at all, as a transaction does."""

    def __init__(self, refused: Sequence[str]) -> None:
        self.refused = refused
        self.kept: list[str] = []
        self.calls = 0

    async def put(self, reports: Sequence[FleetReport]) -> None:
        self.calls += 1
        ids = [report.record.id for report in reports]
        if any(data_plane_id in self.refused for data_plane_id in ids):
            raise ValueError("this cannot be stored")
        self.kept.extend(ids)


class Peer:
    """A connection that has dealt with revision 5."""

    settled_revision = 5
    traffic = None

    def supersede(self) -> None:
        raise AssertionError("there is a single stream")

    def dismiss(self) -> None:
        """It ends."""


async def test_a_report_that_could_not_be_written_goes_before_later_changes() -> None:
    state = FleetState(head=head(5), shares_statuses=True)
    store, peer, now = FailingStore(), Peer(), Clock().now
    writer = FleetWriter(state, Changed(), store, WritingSettings(reports_per_write=50))
    state.attach(pb.Hello(data_plane="dp"), Progress(), peer, Session(1), now=now)
    state.report("dp", peer, Progress(), ResourceChange(replace=True, updated=(resource("models/a"),)), now=now)
    store.failing = True
    assert not await writer.flush()
    state.report("dp", peer, Progress(), ResourceChange(removed=("models/a",)), now=now)
    store.failing = False
    assert await writer.flush()
    (report,) = store.reports
    assert (report.session, report.connected, report.settled_revision) == (1, True, 5)
    assert report.replace
    assert report.statuses == {"models/a": None}
    assert await writer.flush()
    assert len(store.reports) == 1


@pytest.mark.parametrize("refused", [["a"], ["e"], ["a", "b", "c", "d"]])
async def test_a_report_that_the_database_refuses_holds_up_no_other(refused: list[str]) -> None:
    state, now = FleetState(head=head(5), shares_statuses=True), Clock().now
    store = RefusingStore(refused)
    writer = FleetWriter(state, Changed(), store, WritingSettings(reports_per_write=4))
    for data_plane_id in "abcdef":
        state.attach(pb.Hello(data_plane=data_plane_id), Progress(), Peer(), Session(1), now=now)
    for _ in range(4):
        assert not await writer.flush()
    assert sorted(store.kept) == [data_plane_id for data_plane_id in "abcdef" if data_plane_id not in refused]
    store.refused = ()
    assert await writer.flush()
    assert sorted(store.kept) == list("abcdef")


async def test_a_database_that_is_away_is_asked_a_few_times_only() -> None:
    state, now = FleetState(head=head(5), shares_statuses=True), Clock().now
    ids = [f"dp-{number}" for number in range(50)]
    store = RefusingStore(ids)
    writer = FleetWriter(state, Changed(), store, WritingSettings(reports_per_write=50))
    for data_plane_id in ids:
        state.attach(pb.Hello(data_plane=data_plane_id), Progress(), Peer(), Session(1), now=now)
    assert not await writer.flush()
    assert store.calls == 1 + SINGLE_FAILURES_MAX


async def test_nothing_is_written_while_a_data_plane_is_removed() -> None:
    state = FleetState(head=head(5), shares_statuses=True)
    store = FailingStore()
    writer = FleetWriter(state, Changed(), store, WritingSettings(reports_per_write=50))
    state.attach(pb.Hello(data_plane="dp"), Progress(), Peer(), Session(1), now=Clock().now)
    async with writer.paused():
        flushing = asyncio.create_task(writer.flush())
        await settle()
        state.forget("dp")
    assert await flushing
    assert store.reports == []
