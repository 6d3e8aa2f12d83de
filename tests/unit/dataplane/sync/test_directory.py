"""What a data plane finds on disk when it starts, and a disk that fails."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.snapshot.rejection import Rejection
from dataplane.sync.directory import (
    ASIDE_MAX,
    Boot,
    DirectoryInUse,
    DiskError,
    SnapshotDirectory,
)
from tests.disk import (
    ONE,
    THREE,
    TWO,
    Machine,
    become_read_only,
    booted_revision,
    raise_disk_full,
    snapshot,
    verify,
)


def test_nothing_is_found_in_a_new_directory(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "deep" / "catalog")
    assert machine.start() == Boot(snapshot=None, rejected=(), unreadable=())
    machine.kill()


def test_a_saved_snapshot_is_booted_after_a_restart(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.kill()
    boot = machine.start()
    assert boot.snapshot is not None
    assert boot.snapshot.position == ONE.position
    assert boot.snapshot.entries == ONE.entries
    assert boot.snapshot.served == ONE.served


def test_the_newest_is_booted_and_unneeded_files_are_removed(machine: Machine) -> None:
    for each in (ONE, TWO, THREE):
        machine.disk.save(each)
        machine.live_through_probation()
    assert machine.pointed_to("PREVIOUS").name.startswith("00000000000000000002")
    assert len(machine.snapshot_files()) == 2
    machine.kill()
    assert booted_revision(machine.start()) == 3


def test_the_empty_catalogs_of_two_stores_are_two_files(machine: Machine) -> None:
    machine.disk.save(snapshot(1, store_uid="store-a"))
    machine.live_through_probation()
    machine.disk.save(snapshot(1, store_uid="store-b"))
    assert len(machine.snapshot_files()) == 2


def test_two_processes_cannot_share_a_directory(machine: Machine) -> None:
    with pytest.raises(DirectoryInUse):
        SnapshotDirectory(machine.directory).open()
    machine.disk.close()
    machine.start()


def test_a_snapshot_that_accept_refuses_is_not_booted(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.kill()
    disk = SnapshotDirectory(machine.directory)
    disk.open()
    boot = disk.boot(lambda position, entries, signed_head: Rejection(reason="BAD", message="words"))
    disk.close()
    assert boot.snapshot is None
    assert boot.unreadable[0].message == "BAD: words"
    machine.start()


def test_the_number_of_files_kept_aside_is_bounded(machine: Machine) -> None:
    for revision in range(1, 10):
        machine.disk.save(snapshot(revision))
        machine.kill()
        machine.pointed_to("CURRENT").write_bytes(b"nonsense")
        machine.start()
    assert len(list((machine.directory / "aside").iterdir())) == ASIDE_MAX


@pytest.mark.parametrize("point", [0, 1, 2, 3])
def test_a_full_disk_raises_and_leaves_the_stored_snapshot_intact(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    """The flush after `point` others fails."""
    machine.disk.save(ONE)
    machine.live_through_probation()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_after(point, os.fsync))
        with pytest.raises(DiskError, match="No space left"):
            machine.disk.save(TWO)
    machine.kill()
    assert booted_revision(machine.start()) == 1
    machine.disk.save(THREE)
    machine.kill()
    assert booted_revision(machine.start()) == 3
    assert not list(machine.directory.rglob("*.tmp"))


def failing_after(calls: int, function: Callable[[int], None]) -> Callable[[int], None]:
    remaining = calls

    def call(descriptor: int) -> None:
        nonlocal remaining
        if remaining == 0:
            raise_disk_full()
        remaining -= 1
        function(descriptor)

    return call


def test_a_full_disk_can_be_booted_from(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.disk.save(ONE)
    machine.kill()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", raise_disk_full)
        assert booted_revision(machine.start()) == 1


@pytest.mark.parametrize("missing", ["", "LOCK", "aside"])
def test_a_read_only_disk_can_be_booted_from(machine: Machine, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    machine.disk.save(ONE)
    machine.kill()
    if missing == "LOCK":
        (machine.directory / "LOCK").unlink()
    elif missing:
        (machine.directory / missing).rmdir()
    with monkeypatch.context() as patch:
        become_read_only(patch)
        assert booted_revision(machine.start_read_only()) == 1
        with pytest.raises(DiskError, match="Read-only file system"):
            machine.disk.save(TWO)
    machine.disk.open()
    machine.disk.save(TWO)
    machine.kill()
    assert booted_revision(machine.start()) == 2


def test_two_processes_cannot_share_a_read_only_directory(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        become_read_only(patch)
        with pytest.raises(DirectoryInUse):
            SnapshotDirectory(machine.directory).open()


def test_a_filesystem_without_locks_is_not_called_in_use(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.disk.save(ONE)
    machine.kill()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        disk = SnapshotDirectory(machine.directory)
        with pytest.raises(DiskError, match="No locks available"):
            disk.open()
    assert booted_revision(disk.boot(verify)) == 1
    machine.start()


def test_a_path_below_a_file_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        SnapshotDirectory(tmp_path / "file" / "catalog").open()
