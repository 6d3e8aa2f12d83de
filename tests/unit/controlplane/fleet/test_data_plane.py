from __future__ import annotations

from datetime import UTC, datetime

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.fleet.data_plane import DataPlane, UnsharedChanges
from controlplane.fleet.progress import Progress, ResourceChange, record_of
from tests.unit.controlplane.fleet_world import resource

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def data_plane() -> DataPlane:
    return DataPlane(record=record_of(pb.Hello(data_plane="dp"), Progress(), now=NOW), progress=Progress())


def test_later_changes_replace_earlier_ones() -> None:
    changes = UnsharedChanges()
    assert not changes
    changes.add(ResourceChange(updated=(resource("models/a"), resource("models/b"))))
    changes.add(ResourceChange(removed=("models/a",)))
    assert (changes.replace, changes.statuses) == (False, {"models/a": None, "models/b": resource("models/b")})
    changes.add(ResourceChange(replace=True))
    assert changes
    assert (changes.replace, changes.statuses) == (True, {})


def test_a_taken_report_leaves_no_unshared_changes() -> None:
    known = data_plane()
    known.unshared.add(ResourceChange(updated=(resource("models/a"),)))
    report = known.take_report()
    assert report.statuses == {"models/a": resource("models/a")}
    assert (report.connected, report.settled_revision) == (False, None)
    assert not known.unshared


def test_a_replacement_drops_what_could_not_be_written() -> None:
    known = data_plane()
    known.unshared.add(ResourceChange(updated=(resource("models/a"),)))
    failed = known.take_report()
    known.unshared.add(ResourceChange(replace=True, updated=(resource("models/b"),)))
    known.unshared.prepend(failed)
    assert known.unshared.statuses == {"models/b": resource("models/b")}


def test_a_report_does_not_change_after_it_was_taken() -> None:
    known = data_plane()
    known.unshared.add(ResourceChange(updated=(resource("models/a"),)))
    report = known.take_report()
    known.unshared.add(ResourceChange(replace=True))
    assert report.statuses == {"models/a": resource("models/a")}
