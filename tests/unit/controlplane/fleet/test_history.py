"""What of a data plane's reports becomes its history."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import position_to_proto
from controlplane.catalog.domain import Position
from controlplane.fleet.history import UNWRITTEN_MAX, History
from controlplane.fleet.progress import Progress
from tests.unit.controlplane.fleet_world import World, at, head, record

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def active(revision: int) -> Progress:
    return Progress(serving=at(revision), target=at(revision), phase=pb.PHASE_ACTIVE)


def rejected(revision: int, serving: Position, reason: str = "DOOMED") -> Progress:
    return Progress(serving=serving, target=at(revision), phase=pb.PHASE_REJECTED, reason=reason)


def new_history() -> History:
    return History.of(None)


def test_what_is_served_and_what_is_rejected_is_recorded_and_what_is_on_its_way_is_not() -> None:
    history = new_history()
    history.note(active(5), NOW)
    for phase in (pb.PHASE_RECEIVED, pb.PHASE_PREPARED):
        history.note(Progress(serving=at(5), target=at(6), phase=phase), NOW)
    history.note(rejected(6, at(5)), NOW + timedelta(seconds=1))
    history.note(active(7), NOW + timedelta(seconds=2))
    shown = [(c.number, c.time, c.serving, c.phase, c.reason, c.rejected) for c in history.unwritten]
    assert shown == [
        (1, NOW, at(5), pb.PHASE_ACTIVE, "", None),
        (2, NOW + timedelta(seconds=1), at(5), pb.PHASE_REJECTED, "DOOMED", at(6)),
        (3, NOW + timedelta(seconds=2), at(7), pb.PHASE_ACTIVE, "", None),
    ]


def test_the_same_report_again_is_no_change_also_after_a_restart_of_the_control_plane() -> None:
    history = new_history()
    for _ in range(3):
        history.note(active(5), NOW)
    assert history.count == 1
    restarted = History.of(record("dp", serving=at(5)))
    restarted.note(active(5), NOW)
    assert restarted.unwritten == []


def test_memory_is_bounded_while_the_database_is_away() -> None:
    history = new_history()
    for revision in range(100):
        history.note(active(revision), NOW)
    assert [change.number for change in history.unwritten] == list(range(101 - UNWRITTEN_MAX, 101))


def test_a_change_is_shown_from_memory_until_the_database_has_it() -> None:
    history = new_history()
    history.note(active(1), NOW)
    writing = replace(record("dp"), changes=tuple(history.unwritten))
    history.note(active(2), NOW)
    assert [change.number for change in history.unwritten] == [1, 2]
    history.written(writing)
    assert [change.number for change in history.unwritten] == [2]


async def test_changes_go_to_the_database_with_the_record_and_only_once() -> None:
    world = World(5)
    stream = await world.connect(have=at(5))
    position = position_to_proto(at(5))
    world.say(stream, pb.Status(target=position, serving=position, phase=pb.PHASE_ACTIVE))
    assert await world.fleet.writer.flush()
    written = world.records.records["dp"]
    assert (written.change_count, [change.serving for change in written.changes]) == (1, [at(5)])
    writes = world.records.writes
    world.fan_out.publish(head(6))
    world.fan_out.detach(stream)
    assert await world.fleet.writer.flush()
    assert world.records.writes == writes + 1
    again = world.records.records["dp"]
    assert (again.change_count, again.changes) == (1, ())


async def test_changes_that_could_not_be_written_are_written_later() -> None:
    world = World(5)
    stream = await world.connect(have=at(5))
    position = position_to_proto(at(5))
    world.say(stream, pb.Status(target=position, serving=position, phase=pb.PHASE_ACTIVE))
    (report,) = world.fleet.state.take_reports(10)
    assert len(report.record.changes) == 1
    world.fleet.state.not_written([report])
    assert await world.fleet.writer.flush()
    assert [change.number for change in world.records.records["dp"].changes] == [1]
