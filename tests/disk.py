"""A machine on which a data plane is started, stopped and killed, and snapshots for it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dataplane.snapshot.accept import accept
from dataplane.snapshot.change import Change
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from dataplane.sync.directory import Boot, DiskError, SnapshotDirectory
from dataplane.sync.disk.file_disk import FileDisk
from dataplane.sync.probation import PROBATION_S
from tests.raw import POLICY, adapter, model, position, raws


def verify(at: Position, entries: Sequence[RawEntry], *, signed_head: bytes = b"") -> Snapshot | Rejection:
    return accept(at, entries, held=None, policy=POLICY, signed_head=signed_head)


def snapshot(revision: int, *, store_uid: str = "store-a", entries: tuple[RawEntry, ...] | None = None) -> Snapshot:
    entries = raws(model("a", number=revision), adapter("a", "x")) if entries is None else entries
    made = verify(position(entries, revision, store_uid=store_uid), entries)
    assert isinstance(made, Snapshot)
    return made


ONE, TWO, THREE = snapshot(1), snapshot(2), snapshot(3)


def change(before: Snapshot, after: Snapshot) -> Change:
    """What leads from one snapshot to another."""
    held = {entry.name: entry for entry in before.entries}
    return Change(
        base=before.position,
        entries=tuple(entry for entry in after.entries if held.get(entry.name) != entry),
        removed=frozenset(held) - {entry.name for entry in after.entries},
    )


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
        self.waiting: list[Callable[[], None]] | None = None
        """Compactions that wait until a test calls them; None: they run at once."""
        self._new_process()

    def _new_process(self) -> None:
        self._file_disk = FileDisk(self.directory)
        self.disk = SnapshotDirectory(self._file_disk, clock=self.clock, background=self._background)

    def _background(self, work: Callable[[], None]) -> Callable[[], None]:
        if self.waiting is None:
            work()
        else:
            self.waiting.append(work)
        return lambda: None

    def save(self, *snapshots: Snapshot) -> None:
        """Save each as a change of the one before, the first as a whole."""
        for before, after in zip((None, *snapshots), snapshots, strict=False):
            self.disk.save(after, change(before, after) if before else None)

    def start(self) -> Boot:
        self._new_process()
        self.disk.open()
        return self.disk.boot(verify)

    def start_read_only(self) -> Boot:
        """Start on a disk of which `open` says that it cannot be written."""
        self._new_process()
        with pytest.raises(DiskError):
            self.disk.open()
        return self.disk.boot(verify)

    def kill(self) -> None:
        """End the process without an orderly stop. The kernel releases its lock."""
        self._file_disk.close()

    def crash(self, times: int) -> Boot:
        """Crash soon after each start, and start again. Returns what is found at last."""
        boot = None
        for _ in range(times):
            self.kill()
            boot = self.start()
        assert boot is not None
        return boot

    def live_through_probation(self) -> None:
        self.clock.now_s += PROBATION_S
        assert self.disk.settle()

    def snapshot_files(self) -> list[Path]:
        return sorted((self.directory / "snapshots").glob("*.snapshot"))

    def log_file(self) -> Path:
        """The log of the newest snapshot."""
        return self.pointed_to("CURRENT").with_suffix(".log")

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
