"""A machine on which a data plane is started, stopped and killed, and snapshots for it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dataplane.snapshot.accept import accept
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from dataplane.sync.directory import Boot, DiskError, SnapshotDirectory
from dataplane.sync.probation import PROBATION_S
from tests.raw import POLICY, adapter, model, position, raws


def verify(position: Position, entries: Sequence[RawEntry], *, signed_head: bytes = b"") -> Snapshot | Rejection:
    return accept(position, entries, held=None, policy=POLICY, signed_head=signed_head)


def snapshot(revision: int, *, store_uid: str = "store-a") -> Snapshot:
    entries = raws(model("a", number=revision), adapter("a", "x"))
    made = verify(position(entries, revision, store_uid=store_uid), entries)
    assert isinstance(made, Snapshot)
    return made


ONE, TWO, THREE = snapshot(1), snapshot(2), snapshot(3)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Machine:
    """One directory, and the process that uses it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock()
        self.disk = SnapshotDirectory(directory, clock=self.clock)

    def start(self) -> Boot:
        self.disk = SnapshotDirectory(self.directory, clock=self.clock)
        self.disk.open()
        return self.disk.boot(verify)

    def start_read_only(self) -> Boot:
        """Start on a disk of which `open` says that it cannot be written."""
        self.disk = SnapshotDirectory(self.directory, clock=self.clock)
        with pytest.raises(DiskError):
            self.disk.open()
        return self.disk.boot(verify)

    def kill(self) -> None:
        """End the process without an orderly stop. The kernel releases its lock."""
        if self.disk._lock is not None:
            self.disk._lock.close()

    def live_through_probation(self) -> None:
        self.clock.now_s += PROBATION_S
        assert self.disk.settle()

    def snapshot_files(self) -> list[Path]:
        return sorted((self.directory / "snapshots").iterdir())

    def pointed_to(self, pointer: str) -> Path:
        return self.directory / "snapshots" / (self.directory / pointer).read_text().strip()


def booted_revision(boot: Boot) -> int | None:
    return boot.snapshot.position.revision if boot.snapshot else None


def raise_disk_full(*_: object, **__: object) -> object:
    raise OSError(errno.ENOSPC, "No space left on device")


def become_read_only(patch: pytest.MonkeyPatch) -> None:
    """Let every change of a file fail, as on a filesystem that the kernel has made read-only.

    Permissions would not do: tests may run as root.
    """
    path_open, path_mkdir = Path.open, Path.mkdir

    def open_to_read(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if set(mode) & set("wa+x"):
            raise_read_only()
        return path_open(path, mode, *arguments, **named)

    def mkdir(path: Path, *arguments: Any, **named: Any) -> None:
        if not path.exists():
            raise_read_only()
        path_mkdir(path, *arguments, **named)

    patch.setattr(Path, "open", open_to_read)
    patch.setattr(Path, "mkdir", mkdir)
    patch.setattr(Path, "replace", raise_read_only)
    patch.setattr(Path, "unlink", raise_read_only)
    patch.setattr(os, "fsync", raise_read_only)


def raise_read_only(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")
