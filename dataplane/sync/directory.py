"""The last-known-good snapshot on disk, so that a data plane restarts without the control plane.

Blocking: call it in a thread.

    {directory}/LOCK         locked while a process uses the directory
                CURRENT      name of the file in snapshots/ whose newest point is booted
                PREVIOUS     name of the newest file before CURRENT that holds a proven snapshot;
                             without one, of the file before CURRENT
                PROBATION    crashes of the snapshot in service while it is on probation
                REJECTED     rejected snapshots, with the reason
                REVOCATIONS  keys that are revoked whatever is booted (`revocations/file.py`)
                RESERVE      room for what comes next, given up when the disk is full
                snapshots/*  whole snapshots (`snapshot_file.py`), and beside each the log of the
                             changes that follow it (`stored/log_format.py`)
                aside/*      unreadable or crashing files, for an operator; at most ASIDE_MAX

A change is one record at the end of the log of CURRENT: that makes it the newest point. A whole
snapshot is a new file, and so is the newest point when its log has become long (compaction).

Every file but a log is written durably as a whole (`durable_files.py`). CURRENT therefore names a
file that was complete when it was named.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from dataplane.errors import DataPlaneError
from dataplane.snapshot.change import Change
from dataplane.snapshot.snapshot import Position, Snapshot
from dataplane.sync.disk.disk import Disk
from dataplane.sync.events import Rejected
from dataplane.sync.probation import PROBATION_S, Probation
from dataplane.sync.rejected_file import read_rejected, write_rejected
from dataplane.sync.rejections import Rejections
from dataplane.sync.reserve import Reserve
from dataplane.sync.stored.aside import move_aside
from dataplane.sync.stored.booting import CRASHES_MAX, BootSearch, Unreadable, Verify
from dataplane.sync.stored.compaction import Background, in_a_thread
from dataplane.sync.stored.snapshot_files import SnapshotFiles

CRASHED_REPEATEDLY = "CRASHED_REPEATEDLY"
"""Reason of a rejection: the data plane crashed CRASHES_MAX times during the probation."""

_REJECTED = "REJECTED"

_log = structlog.get_logger("dataplane.sync.directory")


class DiskError(DataPlaneError):
    """The disk is full or broken. What was stored before is intact; serve from memory."""

    reason = "DISK_UNAVAILABLE"


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

    def __init__(
        self, disk: Disk, *, clock: Callable[[], float] = time.monotonic, background: Background = in_a_thread
    ) -> None:
        """
        Args:
            disk: Used for nothing else.
            clock: Seconds, from any origin.
            background: Runs compactions beside the caller of `save`.
        """
        self._disk = disk
        self._writable = False
        """Whether `open` has succeeded."""
        self._threads = threading.RLock()
        """Saving, settling, rejecting and compacting come from different threads, and write the
        same files."""
        self._rejections = Rejections()
        self._probation = Probation(disk, "PROBATION", clock=clock, note_proven=lambda: self._files.note_proven())
        self.reserve = Reserve(disk, "RESERVE")
        """Room on the disk, also for files beside those that this class writes."""
        self._files = SnapshotFiles(disk, self._probation, self.reserve, lock=self._threads, background=background)

    # -- opening and closing -----------------------------------------------------------------------

    def open(self) -> None:
        """Create and lock the directory, and remove what an interrupted write left.

        Raises:
            DirectoryInUse: Another process has locked it.
            DiskError: It cannot be created, written or locked. What can be read can be booted from
                all the same, and `open` may be called again.
        """
        try:
            self._disk.open()
        except OSError as error:
            raise DiskError(f"{self._disk} cannot be used: {error}") from error
        self._writable = True

    def close(self) -> None:
        """Release the directory after an orderly stop: it does not count as a crash."""
        self._files.close()
        with self._threads:
            self._probation.interrupt()
            self._disk.close()

    # -- booting -----------------------------------------------------------------------------------

    def boot(self, verify: Verify) -> Boot:
        """Find the snapshot to start with. Called once, after `open`, also if that failed.

        It never fails, because a data plane must start whatever is on its disk.
        """
        with self._threads:
            self._rejections = Rejections(self._read_rejected())
            search = BootSearch(self._disk, self._files.pointers, self._probation, verify)
            # On a disk that cannot be written the probation may be over, and to go back to PREVIOUS
            # would undo what was revoked since.
            found = search.find(count_crashes=self._writable)
            if found is not None:
                if found.crashed is not None:
                    self._reject_crashing(found.crashed)
                self._files.start_from(found)
            for name in search.unusable:
                self._files.move_aside(name)
            return Boot(
                snapshot=found.snapshot if found else None,
                rejected=tuple(self._rejections),
                unreadable=tuple(search.unreadable),
            )

    def _reject_crashing(self, position: Position) -> None:
        message = f"the data plane went down {CRASHES_MAX} times within {PROBATION_S:g} s of putting it into service"
        with suppress(DiskError):  # it is remembered in memory at least
            self.reject(Rejected(position=position, reason=CRASHED_REPEATEDLY, message=message))

    # -- snapshots ---------------------------------------------------------------------------------

    def save(self, snapshot: Snapshot, change: Change | None = None) -> None:
        """Store `snapshot` as the newest, before it goes into service, and begin its probation.

        Args:
            snapshot: What is about to be served.
            change: What led to it, if it came as a change. If the change begins at the newest
                snapshot on disk, its cost here is proportional to the change; else the snapshot is
                written whole.

        Raises:
            DiskError: It could not be stored. The newest is the one before.
        """
        with self._threads:
            try:
                self._files.save(snapshot, change)
            except OSError as error:
                raise DiskError(f"revision {snapshot.position.revision} could not be kept: {error}") from error

    def settle(self) -> bool:
        """End the probation once it is over; to be called every few seconds.

        Returns whether the newest snapshot is proven.
        """
        with self._threads:
            return self._probation.settle()

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
            self.reserve.with_room(lambda: write_rejected(self._disk, _REJECTED, self._rejections))
        except OSError as error:
            raise DiskError(f"{what} could not be kept: {error}") from error

    def _read_rejected(self) -> list[Rejected]:
        try:
            return read_rejected(self._disk, _REJECTED)
        except (OSError, ValueError) as error:
            # A rejected snapshot is then sent once more, and rejected once more.
            _log.error("rejections_unreadable", error=str(error))
            move_aside(self._disk, _REJECTED)
            return []
