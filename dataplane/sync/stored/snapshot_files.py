"""The whole snapshots on disk with their logs, and what CURRENT leads to.

Blocking: call it in a thread. A snapshot becomes the newest by one record in the log of CURRENT, or
by a file of its own that CURRENT names from then on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from dataplane.snapshot.change import Change
from dataplane.snapshot.snapshot import Snapshot
from dataplane.sync.disk.disk import Disk
from dataplane.sync.probation import Probation
from dataplane.sync.reserve import Reserve
from dataplane.sync.snapshot_file import write_snapshot
from dataplane.sync.stored.aside import copy_end_aside, move_aside
from dataplane.sync.stored.booting import Bootable
from dataplane.sync.stored.change_log import ChangeLog
from dataplane.sync.stored.compaction import Background, Compaction, Stopped
from dataplane.sync.stored.log_format import LoggedChange
from dataplane.sync.stored.names import in_snapshots, log_name, snapshot_name
from dataplane.sync.stored.pointers import Pointers

_log = structlog.get_logger("dataplane.sync.stored.snapshot_files")


class SnapshotFiles:
    """What is in `snapshots/`. Its methods are called under the lock, except `close`."""

    def __init__(
        self,
        disk: Disk,
        probation: Probation,
        reserve: Reserve,
        *,
        lock: threading.RLock,
        background: Background,
    ) -> None:
        """
        Args:
            disk: Where the files are.
            probation: Of the newest snapshot.
            reserve: Room for the next snapshot or change.
            lock: Held by whoever calls, and taken by compactions.
            background: Runs compactions beside the caller of `save`.
        """
        self.pointers = Pointers(disk)
        self._disk = disk
        self._probation = probation
        self._reserve = reserve
        self._lock = lock
        self._background = background
        self._log: ChangeLog | None = None
        """Of CURRENT. None: it is not known what CURRENT leads to, so the next snapshot is written
        whole."""
        self._compaction: Compaction | None = None
        self._compacted: Callable[[], None] = _nothing
        """Waits until the last compaction has ended."""

    def close(self) -> None:
        """End a compaction that is under way. Called without the lock, which it needs to end."""
        with self._lock:
            self._stop_compaction()
        self._compacted()

    def note_proven(self) -> None:
        """Note on disk that the newest snapshot has outlived its probation.

        Raises:
            OSError: It could not be noted.
        """
        if self._log is None:
            raise OSError("it is not known what CURRENT leads to")
        self._log.mark_proven()

    def move_aside(self, name: str) -> None:
        """Keep a snapshot file and its log for an operator."""
        for file in (name, log_name(name)):
            move_aside(self._disk, in_snapshots(file))

    # -- starting ----------------------------------------------------------------------------------

    def start_from(self, found: Bootable) -> None:
        """Make what is booted the newest on disk. A data plane boots from a read-only disk too."""
        generation, point = found.generation, found.point
        name = snapshot_name(point.position)
        if found.crashes is not None:
            self._probation.begin(name, crashes=found.crashes)
        try:
            self._cut_log(found)
            current = self.pointers.current
            self.pointers.set_current(generation.name)
            self.pointers.drop_useless_previous()
            self._log = ChangeLog.following(self._disk, generation, found.number, base_proven=found.crashes is None)
            if found.crashes is None:
                self._probation.prove()
            else:
                self._probation.record(name, crashes=found.crashes)
        except OSError as error:
            _log.warning("disk_not_writable", directory=str(self._disk), error=str(error))
        else:
            if current is not None and current != generation.name:
                self.move_aside(current)
            self.pointers.prune()

    def _cut_log(self, found: Bootable) -> None:
        """Let the log of what is booted end at its point."""
        generation, end = found.generation, found.point.end.offset
        if generation.log_bytes <= end:
            return
        log = log_name(generation.name)
        if end == 0:
            move_aside(self._disk, in_snapshots(log))
            return
        if found.number == generation.newest and generation.log.torn:
            _log.info("torn_record_cut", file=log, bytes=generation.log_bytes - end, error=generation.log.fault)
        else:
            copy_end_aside(self._disk, log, begin=end)
        self._disk.cut(in_snapshots(log), end)

    # -- saving ------------------------------------------------------------------------------------

    def save(self, snapshot: Snapshot, change: Change | None) -> None:
        """Make `snapshot` the newest on disk, and begin its probation.

        Args:
            snapshot: What is about to be served.
            change: What led to it. None: it came as a whole.

        Raises:
            OSError: It could not be stored. The newest is the one before.
        """
        if self._log is not None and self._log.position == snapshot.position:
            return
        self._probation.settle()
        log = self._append(snapshot, change) or self._write_whole(snapshot)
        self._probation.begin(snapshot_name(snapshot.position), crashes=0)
        self._reserve.keep(log.base_bytes)
        self._consider_compaction(log, snapshot)

    def _append(self, snapshot: Snapshot, change: Change | None) -> ChangeLog | None:
        """Append `change` to the log; None if it does not begin there, or the log has no room."""
        log = self._log
        if log is None or change is None:
            return None
        record = log.record_of(
            LoggedChange(
                to=snapshot.position,
                entry_count=len(snapshot.entries),
                change=change,
                signed_head=snapshot.signed_head,
            )
        )
        if record is None:
            return None
        self._reserve.with_room(lambda: log.append_change(record, snapshot.position), needed=len(record.payload))
        return log

    def _write_whole(self, snapshot: Snapshot) -> ChangeLog:
        self._stop_compaction()
        log: list[ChangeLog] = []
        self._reserve.with_room(lambda: log.append(self._write_base(snapshot)))
        return log[-1]

    def _write_base(self, snapshot: Snapshot) -> ChangeLog:
        name, current = snapshot_name(snapshot.position), self.pointers.current
        # Its log would be taken for what follows.
        log = in_snapshots(log_name(name))
        if self._disk.exists(log):
            self._disk.remove(log)
        self._disk.write(in_snapshots(name), lambda file: write_snapshot(file, snapshot))
        base_bytes = self._disk.size(in_snapshots(name))
        self._keep_previous(current)
        self._probation.record(name, crashes=0)
        return self._point_to(ChangeLog.alone(self._disk, snapshot.position, base_bytes))

    def _keep_previous(self, current: str | None) -> None:
        # PREVIOUS keeps naming a file with a proven snapshot: an unproven one may crash too.
        proven = self._probation.proven or (self._log is not None and self._log.any_proven)
        if current is not None and (proven or self.pointers.previous is None):
            self.pointers.set_previous(current)

    def _point_to(self, log: ChangeLog) -> ChangeLog:
        """Let CURRENT name the file of `log`, which holds the newest snapshot."""
        self._log = None  # after an error CURRENT may name either
        self.pointers.set_current(log.name)
        self._log = log
        self.pointers.prune()
        return log

    # -- compaction --------------------------------------------------------------------------------

    def _consider_compaction(self, log: ChangeLog, newest: Snapshot) -> None:
        if self._compaction is not None or not log.is_due:
            return
        log.begin_compaction()
        compaction = self._compaction = Compaction(self._disk, newest)
        self._compacted = self._background(lambda: self._compact(compaction, log))

    def _stop_compaction(self) -> None:
        if self._compaction is not None:
            self._compaction.stop()
            self._compaction = None

    def _compact(self, compaction: Compaction, log: ChangeLog) -> None:
        """Write the newest snapshot as a new base, and then let CURRENT name it.

        Meanwhile, changes are appended to the old log. They are copied before CURRENT changes.
        """
        try:
            base_bytes = compaction.write()
            with self._lock:
                if self._compaction is compaction:
                    self._probation.settle()
                    following = log.compacted(base_bytes)
                    self._keep_previous(log.name)
                    self._point_to(following)
        except Stopped:
            _log.info("compaction_stopped", file=log.name)
        except OSError as error:
            _log.warning("log_not_compacted", file=log.name, error=str(error))
            log.put_off_compaction()
        finally:
            with self._lock:
                log.end_compaction()
                if self._compaction is compaction:
                    self._compaction = None
                if self._log is not None:
                    self.pointers.prune()  # a base that CURRENT does not name


def _nothing() -> None:
    pass
