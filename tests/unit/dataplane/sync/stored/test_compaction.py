"""A log that has become long is replaced by a new base."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from dataplane.snapshot.snapshot import Snapshot
from dataplane.sync.directory import SnapshotDirectory
from dataplane.sync.disk.file_disk import FileDisk
from dataplane.sync.stored import limits
from dataplane.sync.stored.compaction import Compaction
from tests.disk import ONE, THREE, TWO, Machine, booted_revision, change, raise_disk_full, snapshot, verify

FOUR, FIVE, SIX = snapshot(4), snapshot(5), snapshot(6)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COMPACT_RECORDS_MAX", 2)


def test_the_newest_becomes_the_base_and_the_old_files_stay_as_previous(machine: Machine) -> None:
    machine.save(ONE, TWO)
    machine.live_through_probation()
    old = machine.pointed_to("CURRENT")
    machine.disk.save(THREE, change(TWO, THREE))
    assert machine.pointed_to("CURRENT").name.startswith("00000000000000000003")
    assert machine.pointed_to("PREVIOUS") == old
    machine.disk.save(FOUR, change(THREE, FOUR))
    machine.kill()
    assert booted_revision(machine.start()) == 4
    assert len(machine.snapshot_files()) == 2


def test_changes_that_arrive_during_a_compaction_are_in_both_logs(machine: Machine) -> None:
    machine.waiting = []
    machine.save(ONE, TWO, THREE)
    machine.disk.save(FOUR, change(THREE, FOUR))
    machine.live_through_probation()
    machine.disk.save(FIVE, change(FOUR, FIVE))
    (compact,) = machine.waiting
    compact()
    assert machine.pointed_to("CURRENT").name.startswith("00000000000000000003")
    machine.disk.save(SIX, change(FIVE, SIX))
    machine.kill()
    assert booted_revision(machine.start()) == 6
    assert booted_revision(machine.crash(1)) == 4, "that 4 is proven came along"


def test_crashes_on_an_unproven_snapshot_count_across_its_compaction(machine: Machine) -> None:
    machine.save(ONE)
    machine.live_through_probation()
    machine.waiting = []
    machine.save(TWO, THREE, FOUR)
    machine.waiting[0]()
    assert booted_revision(machine.crash(1)) == 4
    assert booted_revision(machine.crash(1)) == 1


def test_a_whole_snapshot_ends_the_compaction_under_way(machine: Machine) -> None:
    machine.waiting = []
    machine.save(ONE, TWO, THREE)
    (compact,) = machine.waiting
    machine.disk.save(FOUR)
    compact()
    machine.kill()
    assert booted_revision(machine.start()) == 4
    assert {path.name[:20] for path in machine.snapshot_files()} == {f"{1:020d}", f"{4:020d}"}


def test_a_full_disk_puts_compactions_off_and_leaves_no_base(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.save(ONE, TWO)
    monkeypatch.setattr(limits, "COMPACT_BYTES_MIN", 8 * machine.log_file().stat().st_size)
    tries, flush = list[str](), os.fsync

    def full_for_bases(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.endswith(".snapshot.tmp"):
            tries.append(path)
            raise_disk_full()
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_for_bases)
        for before, after in ((TWO, THREE), (THREE, FOUR)):
            machine.disk.save(after, change(before, after))
        assert len(tries) == 1
    assert machine.pointed_to("CURRENT").name.startswith("00000000000000000001")
    assert len(machine.snapshot_files()) == 1
    machine.disk.save(FIVE, change(FOUR, FIVE))
    assert machine.pointed_to("CURRENT").name.startswith("00000000000000000005")


def test_a_log_that_cannot_be_compacted_ends_and_the_next_snapshot_is_written_whole(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.waiting = []
    before = ONE
    machine.disk.save(ONE)
    for revision in range(2, 7):
        after = snapshot(revision)
        machine.disk.save(after, change(before, after))
        before = after
    assert machine.pointed_to("CURRENT").name.startswith("00000000000000000006"), "4 changes fit"
    machine.kill()
    assert booted_revision(machine.start()) == 6


def test_current_that_cannot_be_written_leads_to_a_whole_snapshot(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After such an error, CURRENT may name the old or the new base."""
    machine.save(ONE, TWO)
    write = FileDisk.write

    def fail_after_writing(disk: FileDisk, path: str, content: Callable[[IO[bytes]], object]) -> None:
        write(disk, path, content)
        if path == "CURRENT":
            raise OSError("Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(FileDisk, "write", fail_after_writing)
        machine.disk.save(THREE, change(TWO, THREE))
    machine.disk.save(FOUR, change(THREE, FOUR))
    assert machine.pointed_to("CURRENT").name.startswith("00000000000000000004")
    machine.kill()
    assert booted_revision(machine.start()) == 4


class Slow(FileDisk):
    """A disk on which the base of a compaction waits until a test lets it go."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reached, self.let_go = threading.Event(), threading.Event()
        self.written: list[str] = []

    def write(self, path: str, write: Callable[[IO[bytes]], Any]) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.reached.set()
            assert self.let_go.wait(10)
        super().write(path, write)
        self.written.append(path)


def test_changes_are_saved_while_a_base_is_written(tmp_path: Path) -> None:
    disk = Slow(tmp_path)
    directory = SnapshotDirectory(disk)
    directory.open()
    before: Snapshot | None = None
    for after in (ONE, TWO, THREE):
        directory.save(after, change(before, after) if before else None)
        before = after
    assert disk.reached.wait(10)
    directory.save(FOUR, change(THREE, FOUR))
    disk.let_go.set()
    directory._files._compacted()
    directory.save(FIVE, change(FOUR, FIVE))
    directory.close()
    assert (tmp_path / "CURRENT").read_text().startswith("00000000000000000003")
    directory = SnapshotDirectory(FileDisk(tmp_path))
    directory.open()
    assert booted_revision(directory.boot(verify)) == 5
    directory.close()


def test_closing_ends_the_compaction_under_way(tmp_path: Path) -> None:
    disk = Slow(tmp_path)
    directory = SnapshotDirectory(disk)
    directory.open()
    for before, after in ((None, ONE), (ONE, TWO), (TWO, THREE)):
        directory.save(after, change(before, after) if before else None)
    assert disk.reached.wait(10)
    threading.Timer(0.05, disk.let_go.set).start()
    directory.close()
    assert sum(path.endswith(".snapshot") for path in disk.written) == 1, "it does not go on for nothing"
    assert [path.name[:20] for path in (tmp_path / "snapshots").iterdir()] == [f"{1:020d}"] * 2
    assert (tmp_path / "CURRENT").read_text().startswith("00000000000000000001")


@pytest.mark.parametrize("when", ["before the base is in its place", "after it"])
def test_a_whole_snapshot_that_arrives_at_the_end_of_a_compaction_wins(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    machine.waiting = []
    machine.save(ONE, TWO, THREE)
    write = Compaction.write

    def interrupted(compaction: Compaction) -> int:
        size = write(compaction) if when == "after it" else 0
        machine.disk.save(FOUR)
        compaction._stopped = False  # it comes too late to be seen
        return size or write(compaction)

    with monkeypatch.context() as patch:
        patch.setattr(Compaction, "write", interrupted)
        machine.waiting[0]()
    assert {path.name[:20] for path in machine.snapshot_files()} == {f"{1:020d}", f"{4:020d}"}
    machine.kill()
    assert booted_revision(machine.start()) == 4
