"""Room for the newest snapshot on a disk that others have filled."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dataplane.sync.directory import DiskError
from dataplane.sync.disk.file_disk import FileDisk
from dataplane.sync.events import Rejected
from dataplane.sync.reserve import RESERVE_MIN_BYTES, Reserve
from tests.disk import ONE, THREE, TWO, Machine, booted_revision, raise_disk_full


@pytest.fixture
def full(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reserve of a machine that serves revision 1, and whose disk has no room besides it."""
    machine.disk.save(ONE)
    machine.live_through_probation()
    reserve, flush = machine.directory / "RESERVE", os.fsync

    def flush_if_room(descriptor: int) -> None:
        if reserve.exists():
            raise_disk_full()
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", flush_if_room)
    monkeypatch.setattr(os, "posix_fallocate", raise_disk_full)
    return reserve


def test_reserve_is_larger_than_two_snapshots(machine: Machine) -> None:
    machine.disk.save(ONE)
    (file,) = machine.snapshot_files()
    reserve = (machine.directory / "RESERVE").stat()
    assert reserve.st_size == 2 * file.stat().st_size + RESERVE_MIN_BYTES
    assert reserve.st_blocks * 512 >= reserve.st_size, "the room is taken, not only named"


def test_snapshot_is_kept_on_a_full_disk_in_the_reserved_room(machine: Machine, full: Path) -> None:
    machine.disk.save(TWO)
    machine.kill()
    assert booted_revision(machine.start()) == 2


def test_rejection_is_kept_on_a_full_disk_in_the_reserved_room(machine: Machine, full: Path) -> None:
    machine.disk.reject(Rejected(position=TWO.position, reason="BAD", message="words"))
    machine.kill()
    assert [item.position for item in machine.start().rejected] == [TWO.position]


def test_reserve_is_made_again_when_there_is_room(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", raise_disk_full)
        machine.disk.save(ONE)
    assert not (machine.directory / "RESERVE").stat().st_size
    machine.disk.save(TWO)
    assert (machine.directory / "RESERVE").stat().st_size > RESERVE_MIN_BYTES


def test_another_fault_of_the_disk_leaves_the_reserve(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.disk.save(ONE)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DiskError, match="Input/output error"):
            machine.disk.save(TWO)
    assert (machine.directory / "RESERVE").exists()
    machine.disk.save(THREE)


def test_without_a_reserve_the_error_of_a_full_disk_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        Reserve(FileDisk(tmp_path), "RESERVE").with_room(raise_full)


def raise_full() -> None:
    raise_disk_full()
