"""The last-known-good snapshot on disk, so that a data plane restarts without the control plane.

Blocking: call it in a thread.

    {directory}/LOCK         locked while a process uses the directory
                CURRENT      name of the file in snapshots/ to boot from
                PREVIOUS     name of the newest file before CURRENT that outlived its probation;
                             without one, of the file before CURRENT
                PROBATION    exists until CURRENT has outlived its probation; counts the crashes
                REJECTED     rejected snapshots, with the reason
                REVOCATIONS  keys that are revoked whatever is booted (`revocations/file.py`)
                RESERVE      room for the next snapshot, given up when the disk is full
                snapshots/*  one immutable file per snapshot (`snapshot_file.py`)
                aside/*      unreadable or crashing files, for an operator; at most ASIDE_MAX

Every file is written durably (`durable_files.py`). CURRENT therefore names a file that was complete
when it was named.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol

import structlog

from dataplane.errors import DataPlaneError
from dataplane.snapshot.rejection import SIGNATURE_REASONS, Rejection
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from dataplane.sync.durable_files import remove_partial_files, write_file, write_text
from dataplane.sync.events import Rejected
from dataplane.sync.probation import PROBATION_S, Probation
from dataplane.sync.rejected_file import read_rejected, write_rejected
from dataplane.sync.rejections import Rejections
from dataplane.sync.reserve import Reserve
from dataplane.sync.snapshot_file import read_position, read_snapshot, write_snapshot

CORRUPT_ON_DISK = "CORRUPT_ON_DISK"
"""Reason why a file was moved aside. The file is to blame, not the snapshot: it is not rejected."""
CRASHED_REPEATEDLY = "CRASHED_REPEATEDLY"
"""Reason of a rejection: the data plane crashed CRASHES_MAX times during the probation."""

CRASHES_MAX = 2
ASIDE_MAX = 4
"""Files kept aside, the newest."""

_FILE_NAME = re.compile(r"[0-9]{20}-[0-9a-f]{32}\.snapshot")

_log = structlog.get_logger("dataplane.sync.directory")


class Verify(Protocol):
    """`accept` with its policy, and nothing held."""

    def __call__(
        self, position: Position, entries: Sequence[RawEntry], *, signed_head: bytes
    ) -> Snapshot | Rejection: ...


class DiskError(DataPlaneError):
    """The disk is full or broken. What was stored before is intact; serve from memory."""

    reason = "DISK_UNAVAILABLE"


class DirectoryInUse(DataPlaneError):
    """Another process uses the directory."""

    reason = "DIRECTORY_IN_USE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A snapshot file that was moved aside, or that no trusted key has signed."""

    file: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What was found at start."""

    snapshot: Snapshot | None
    """To serve; None if there is none."""
    rejected: tuple[Rejected, ...]
    """For Hello, the oldest first."""
    unreadable: tuple[Unreadable, ...]


class SnapshotDirectory:
    """One directory, used by one process at a time. Its methods may be called from any thread."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            directory: Used for nothing else; created if it does not exist.
            clock: Seconds, from any origin.
        """
        self._directory = directory
        self._snapshots = directory / "snapshots"
        self._aside = directory / "aside"
        self._lock: IO[bytes] | None = None
        self._writable = False
        """Whether `open` has succeeded."""
        self._threads = threading.RLock()
        """Saving, settling and rejecting come from different threads, and write the same files."""
        self._rejections = Rejections()
        self._probation = Probation(directory / "PROBATION", clock=clock)
        self.reserve = Reserve(directory / "RESERVE")

    # -- opening and closing -----------------------------------------------------------------------

    def open(self) -> None:
        """Create and lock the directory, and remove what an interrupted write left.

        Raises:
            DirectoryInUse: Another process has locked it.
            DiskError: It cannot be created, written or locked. What can be read can be booted from
                all the same, and `open` may be called again.
        """
        self._unlock()
        try:
            for directory in (self._directory, self._snapshots, self._aside):
                directory.mkdir(parents=True, exist_ok=True)
            self._take_lock("ab")
        except OSError as error:
            with suppress(OSError):  # on a read-only disk the file can be locked, if it is there
                self._take_lock("rb")
            raise DiskError(f"{self._directory} cannot be used: {error}") from error
        self._writable = True
        for directory in (self._directory, self._snapshots):
            remove_partial_files(directory)

    def _take_lock(self, mode: Literal["ab", "rb"]) -> None:
        lock = (self._directory / "LOCK").open(mode)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise DirectoryInUse(f"{self._directory} is in use by another data plane") from error
        except OSError:
            lock.close()
            raise
        self._lock = lock

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def close(self) -> None:
        """Release the directory after an orderly stop: it does not count as a crash."""
        with self._threads:
            self._probation.interrupt()
            self._unlock()

    # -- booting -----------------------------------------------------------------------------------

    def boot(self, verify: Verify) -> Boot:
        """Find the snapshot to start with. Called once, after `open`, also if that failed.

        It never fails, because a data plane must start whatever is on its disk.
        """
        self._rejections = Rejections(self._read_rejected())
        current, previous = self._pointer("CURRENT"), self._pointer("PREVIOUS")
        crashes = self._probation.crashes_at_start(current) if current is not None else None
        # On a disk that cannot be written the probation may be over, and to go back to PREVIOUS
        # would undo what was revoked since.
        crashing = self._writable and crashes is not None and crashes >= CRASHES_MAX
        unreadable: list[Unreadable] = []
        if crashing and current and previous and previous != current:
            snapshot = self._load(previous, verify, unreadable)
            if snapshot is not None:
                self._reject_crashing(current)
                self._start_from(previous, crashes=None)
                return self._booted(snapshot, unreadable)
            previous = None
        for name in dict.fromkeys(name for name in (current, previous) if name):
            snapshot = self._load(name, verify, unreadable)
            if snapshot is not None:
                self._start_from(name, crashes=crashes if name == current else None)
                return self._booted(snapshot, unreadable)
        return self._booted(None, unreadable)

    def _booted(self, snapshot: Snapshot | None, unreadable: Sequence[Unreadable]) -> Boot:
        return Boot(snapshot=snapshot, rejected=tuple(self._rejections), unreadable=tuple(unreadable))

    def _start_from(self, name: str, *, crashes: int | None) -> None:
        """Point to what is booted. A data plane boots from a read-only disk too.

        crashes: On its probation; None if it needs none. It is proven then, or there is no other.
        """
        try:
            if self._pointer("CURRENT") != name:
                write_text(self._directory / "CURRENT", name)
            previous = self._pointer("PREVIOUS")
            if previous is not None and (previous == name or not (self._snapshots / previous).exists()):
                (self._directory / "PREVIOUS").unlink(missing_ok=True)
            if crashes is None:
                self._probation.prove()
            else:
                self._probation.begin(name, crashes=crashes)
                self._probation.record(name, crashes=crashes)
        except OSError as error:
            _log.warning("disk_not_writable", directory=str(self._directory), error=str(error))

    def _reject_crashing(self, name: str) -> None:
        path = self._snapshots / name
        try:
            position = read_position(path)
        except (OSError, ValueError) as error:
            _log.warning("crashed_snapshot_unreadable", file=name, error=str(error))
        else:
            message = (
                f"the data plane went down {CRASHES_MAX} times within {PROBATION_S:g} s of putting it into service"
            )
            with suppress(DiskError):  # it is remembered in memory at least
                self.reject(Rejected(position=position, reason=CRASHED_REPEATEDLY, message=message))
        self._move_aside(path)

    def _load(self, name: str, verify: Verify, unreadable: list[Unreadable]) -> Snapshot | None:
        path = self._snapshots / name
        try:
            stored = read_snapshot(path)
            outcome = verify(stored.position, stored.entries, signed_head=stored.signed_head)
            if isinstance(outcome, Snapshot):
                return outcome
            if outcome.reason in SIGNATURE_REASONS:  # with other keys it can be booted: it stays
                unreadable.append(Unreadable(file=name, reason=outcome.reason, message=outcome.message))
                return None
            message = f"{outcome.reason}: {outcome.message}"
        except (OSError, ValueError) as error:
            message = str(error)
        _log.error("snapshot_file_unreadable", file=name, reason=CORRUPT_ON_DISK, error=message)
        unreadable.append(Unreadable(file=name, reason=CORRUPT_ON_DISK, message=message))
        self._move_aside(path)
        return None

    # -- snapshots ---------------------------------------------------------------------------------

    def save(self, snapshot: Snapshot) -> None:
        """Store `snapshot` as CURRENT, before it goes into service, and begin its probation.

        Raises:
            DiskError: It could not be stored. CURRENT is unchanged.
        """
        with self._threads:
            name = _file_name(snapshot.position)
            if name == self._pointer("CURRENT") and (self._snapshots / name).exists():
                return
            try:
                self.reserve.with_room(lambda: self._write_snapshot(name, snapshot))
            except OSError as error:
                raise DiskError(f"revision {snapshot.position.revision} could not be kept: {error}") from error
            self._probation.begin(name, crashes=0)
            self._prune()
            self.reserve.keep((self._snapshots / name).stat().st_size)

    def _write_snapshot(self, name: str, snapshot: Snapshot) -> None:
        current = self._pointer("CURRENT")
        write_file(self._snapshots / name, lambda file: write_snapshot(file, snapshot))
        # PREVIOUS keeps naming a proven snapshot: an unproven one may crash too.
        if current is not None and (self._probation.proven or self._pointer("PREVIOUS") is None):
            write_text(self._directory / "PREVIOUS", current)
        self._probation.record(name, crashes=0)
        write_text(self._directory / "CURRENT", name)

    def settle(self) -> bool:
        """End the probation once it is over; to be called every few seconds.

        Returns whether CURRENT is proven.
        """
        with self._threads:
            return self._probation.settle()

    def _move_aside(self, path: Path) -> None:
        try:
            if path.exists():
                path.replace(self._aside / path.name)
            kept = sorted(self._aside.iterdir(), key=lambda file: file.stat().st_ctime_ns, reverse=True)
            for surplus in kept[ASIDE_MAX:]:
                surplus.unlink()
        except OSError as error:
            _log.warning("not_moved_aside", file=path.name, error=str(error))

    def _prune(self) -> None:
        """Remove snapshots that neither CURRENT nor PREVIOUS names."""
        needed = {self._pointer("CURRENT"), self._pointer("PREVIOUS")}
        try:
            for path in self._snapshots.iterdir():
                if path.name not in needed:
                    path.unlink()
        except OSError as error:
            _log.warning("snapshots_not_pruned", error=str(error))

    def _pointer(self, pointer: str) -> str | None:
        try:
            name = (self._directory / pointer).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return name if _FILE_NAME.fullmatch(name) else None

    # -- rejections --------------------------------------------------------------------------------

    def reject(self, rejected: Rejected) -> None:
        """Remember a rejection across restarts. The oldest beyond REJECTED_MAX are forgotten.

        Raises:
            DiskError: It could not be stored. It is remembered in memory.
        """
        with self._threads:
            self._rejections.add(rejected)
            self._write_rejected(f"the rejection of revision {rejected.position.revision}")

    def forget(self, position: Position) -> None:
        """Forget the rejection of `position`, also across restarts.

        Raises:
            DiskError: It could not be stored. It is forgotten in memory.
        """
        with self._threads:
            self._rejections.discard(position)
            self._write_rejected(f"that the rejection of revision {position.revision} is taken back")

    def _write_rejected(self, what: str) -> None:
        try:
            self.reserve.with_room(lambda: write_rejected(self._directory / "REJECTED", self._rejections))
        except OSError as error:
            raise DiskError(f"{what} could not be kept: {error}") from error

    def _read_rejected(self) -> list[Rejected]:
        path = self._directory / "REJECTED"
        try:
            return read_rejected(path)
        except (OSError, ValueError) as error:
            # A rejected snapshot is then sent once more, and rejected once more.
            _log.error("rejections_unreadable", error=str(error))
            self._move_aside(path)
            return []


def _file_name(position: Position) -> str:
    # Includes the store: the empty catalogs of two stores have the same revision and digest.
    identity = hashlib.sha256(position.store_uid.encode("utf-8") + b"\0" + position.digest).hexdigest()
    return f"{position.revision:020d}-{identity[:32]}.snapshot"
