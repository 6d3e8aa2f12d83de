"""The last-known-good snapshot on disk, so that a data plane restarts without the control plane.
Blocking: call it in a thread.

    {directory}/LOCK               locked for as long as a process uses the directory
                CURRENT            name of the file in snapshots/ to boot from PREVIOUS
                the last one before it that outlived its probation, or simply the one before
                PROBATION          that CURRENT went into service less than 60 s ago, and how often
                it crashed so REJECTED           snapshots that were rejected, with the reason
                snapshots/*        one immutable file per snapshot (`snapshot_file.py`) aside/*
                what could not be read, or kept crashing: for people to look at, at most four

Every file is written beside its place, flushed, and renamed into it; then the directory is flushed.
So after a power cut each is the old one or the new one, and CURRENT names a file that was whole
when it was named.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import structlog

from dataplane.errors import DataPlaneError
from dataplane.snapshot.position_check import POSITION_DIGEST_BYTES
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from dataplane.sync.events import Rejected
from dataplane.sync.rejections import REJECTED_MAX
from dataplane.sync.snapshot_file import read_position, read_snapshot, write_snapshot

CORRUPT_ON_DISK = "CORRUPT_ON_DISK"
"""Reason why a file was moved aside. The snapshot itself is not to blame, so it is not rejected but
wanted again."""
CRASHED_REPEATEDLY = "CRASHED_REPEATEDLY"
"""Reason of a rejection: the data plane went down twice soon after it had put the snapshot into
service."""

PROBATION_S = 60.0
"""A crash this soon after a snapshot went into service is held against it."""
CRASHES_MAX = 2
ASIDE_MAX = 4
"""Files kept aside, the newest."""

_FILE_NAME = re.compile(r"[0-9]{20}-[0-9a-f]{32}\.snapshot")
_TMP_SUFFIX = ".tmp"

_log = structlog.get_logger("dataplane.sync.directory")

Verify = Callable[[Position, Sequence[RawEntry]], Snapshot | Rejection]
"""`accept` with its policy, and nothing held."""


class DiskError(DataPlaneError):
    """Nothing can be kept on disk, because it is full or broken. What was there before still is.
    Serve from memory."""

    reason = "DISK_UNAVAILABLE"


class DirectoryInUse(DataPlaneError):
    """Another process uses the directory."""

    reason = "DIRECTORY_IN_USE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A snapshot file that was moved aside."""

    file: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What was found at start."""

    snapshot: Snapshot | None
    """To serve; None: there is none."""
    rejected: tuple[Rejected, ...]
    """The oldest first, for the Hello."""
    unreadable: tuple[Unreadable, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probation:
    file: str
    crashes: int
    """Times that the process went down while `file` was on probation."""


class Disk:
    """One directory, used by one process at a time."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            directory: Its own; made if it is not there.
            clock: Seconds, from anywhere.
        """
        self._directory = directory
        self._snapshots = directory / "snapshots"
        self._aside = directory / "aside"
        self._clock = clock
        self._lock: IO[bytes] | None = None
        self._one_call = threading.RLock()
        """Saving, settling and rejecting come from different threads, and write the same files."""
        self._rejected: dict[Position, Rejected] = {}
        self._on_probation_since_s: float | None = None
        self._proven = False
        """CURRENT has outlived a probation."""

    # -- life --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make and lock the directory, and clear what an interrupted write left.

        Raises:
            DirectoryInUse: another process has locked it.
            DiskError: it cannot be made or written.
        """
        try:
            for directory in (self._directory, self._snapshots, self._aside):
                directory.mkdir(parents=True, exist_ok=True)
            lock = (self._directory / "LOCK").open("ab")
        except OSError as error:
            raise DiskError(f"{self._directory} cannot be used: {error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise DirectoryInUse(f"{self._directory} is in use by another data plane") from error
        self._lock = lock
        for directory in (self._directory, self._snapshots):
            for path in directory.glob(f"*{_TMP_SUFFIX}"):
                with suppress(OSError):
                    path.unlink()

    def close(self) -> None:
        """An orderly stop: nothing is held against the snapshot in service."""
        with self._one_call:
            self._end_probation()
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def boot(self, verify: Verify) -> Boot:
        """Find the snapshot to start with. Called once, after `open`. Never fails: a data plane
        must come up."""
        self._rejected = {rejected.position: rejected for rejected in self._read_rejected()}
        current, previous = self._pointer("CURRENT"), self._pointer("PREVIOUS")
        probation = self._read_probation()
        crashes = probation.crashes + 1 if probation and probation.file == current else 0
        self._proven = current is not None and crashes == 0
        unreadable: list[Unreadable] = []
        if crashes >= CRASHES_MAX and current and previous and previous != current:
            snapshot = self._load(previous, verify, unreadable)
            if snapshot is not None:
                self._demote(current)
                self._start_from(previous, crashes=0)
                return self._booted(snapshot, unreadable)
            previous = None
        for name in dict.fromkeys(name for name in (current, previous) if name):
            snapshot = self._load(name, verify, unreadable)
            if snapshot is not None:
                if name != current:
                    crashes, self._proven = 0, True
                self._start_from(name, crashes=crashes)
                return self._booted(snapshot, unreadable)
        return self._booted(None, unreadable)

    def _booted(self, snapshot: Snapshot | None, unreadable: Sequence[Unreadable]) -> Boot:
        return Boot(snapshot=snapshot, rejected=tuple(self._rejected.values()), unreadable=tuple(unreadable))

    def _start_from(self, name: str, *, crashes: int) -> None:
        """Point to what is booted. A disk that cannot be written is no reason not to boot from
        it."""
        try:
            if self._pointer("CURRENT") != name:
                self._write_text("CURRENT", name)
            previous = self._pointer("PREVIOUS")
            if previous is not None and (previous == name or not (self._snapshots / previous).exists()):
                (self._directory / "PREVIOUS").unlink(missing_ok=True)
            self._begin_probation(name, crashes)
        except OSError as error:
            _log.warning("disk_not_writable", directory=str(self._directory), error=str(error))

    def _demote(self, current: str) -> None:
        path = self._snapshots / current
        try:
            position = read_position(path)
        except (OSError, ValueError) as error:
            _log.warning("crashed_snapshot_unreadable", file=current, error=str(error))
        else:
            message = (
                f"the data plane went down {CRASHES_MAX} times within {PROBATION_S:g} s of putting it into service"
            )
            rejected = Rejected(position=position, reason=CRASHED_REPEATEDLY, message=message)
            with suppress(DiskError):  # logged; it is in memory all the same
                self.reject(rejected)
        self._move_aside(path)

    # -- snapshots ---------------------------------------------------------------------------------

    def save(self, snapshot: Snapshot) -> None:
        """Keep `snapshot` as CURRENT, before it goes into service; its probation begins.

        Raises:
            DiskError: it could not be kept. CURRENT is what it was.
        """
        with self._one_call:
            name = _file_name(snapshot.position)
            try:
                current = self._pointer("CURRENT")
                if name == current and (self._snapshots / name).exists():
                    return
                self._write(self._snapshots / name, lambda file: write_snapshot(file, snapshot))
                # PREVIOUS stays at what has proved itself: falling back from one bad snapshot to
                # another helps nobody.
                if current is not None and (self._is_proven() or self._pointer("PREVIOUS") is None):
                    self._write_text("PREVIOUS", current)
                self._begin_probation(name, crashes=0)
                self._write_text("CURRENT", name)
            except OSError as error:
                raise DiskError(f"revision {snapshot.position.revision} could not be kept: {error}") from error
            self._proven = False
            self._prune()

    def settle(self) -> bool:
        """To be called now and then: ends the probation once it is over. Returns whether CURRENT
        has proved itself."""
        with self._one_call:
            if not self._proven and self._is_proven():
                self._proven = True
            if self._on_probation_since_s is not None and self._clock() - self._on_probation_since_s >= PROBATION_S:
                self._end_probation()
            return self._proven

    def _is_proven(self) -> bool:
        since_s = self._on_probation_since_s
        return self._proven or (since_s is not None and self._clock() - since_s >= PROBATION_S)

    def _begin_probation(self, name: str, crashes: int) -> None:
        self._on_probation_since_s = self._clock()
        self._write_text("PROBATION", json.dumps({"file": name, "crashes": crashes}))

    def _end_probation(self) -> None:
        self._on_probation_since_s = None
        with suppress(OSError):
            (self._directory / "PROBATION").unlink(missing_ok=True)

    def _read_probation(self) -> _Probation | None:
        try:
            fields = json.loads((self._directory / "PROBATION").read_text(encoding="utf-8"))
            return _Probation(file=str(fields["file"]), crashes=int(fields["crashes"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _load(self, name: str, verify: Verify, unreadable: list[Unreadable]) -> Snapshot | None:
        path = self._snapshots / name
        try:
            stored = read_snapshot(path)
            outcome = verify(stored.position, stored.entries)
            if isinstance(outcome, Snapshot):
                return outcome
            message = f"{outcome.reason}: {outcome.message}"
        except (OSError, ValueError) as error:
            message = str(error)
        _log.error("snapshot_file_unreadable", file=name, reason=CORRUPT_ON_DISK, error=message)
        unreadable.append(Unreadable(file=name, reason=CORRUPT_ON_DISK, message=message))
        self._move_aside(path)
        return None

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
        """Remove snapshots that nothing points to."""
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
        """Remember a rejection; the oldest beyond 16 are forgotten.

        Raises:
            DiskError: it could not be kept.
        """
        with self._one_call:
            self._rejected.pop(rejected.position, None)
            self._rejected[rejected.position] = rejected
            while len(self._rejected) > REJECTED_MAX:
                self._rejected.pop(next(iter(self._rejected)))
            fields = [
                {
                    "store_uid": one.position.store_uid,
                    "revision": one.position.revision,
                    "digest": one.position.digest.hex(),
                    "reason": one.reason,
                    "message": one.message,
                }
                for one in self._rejected.values()
            ]
            try:
                self._write_text("REJECTED", json.dumps(fields, indent=1))
            except OSError as error:
                raise DiskError(
                    f"the rejection of revision {rejected.position.revision} could not be kept: {error}"
                ) from error

    def _read_rejected(self) -> list[Rejected]:
        path = self._directory / "REJECTED"
        if not path.exists():
            return []
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return [_rejected_from_json(one) for one in fields[-REJECTED_MAX:]]
        except (OSError, ValueError, TypeError, KeyError) as error:
            # Without it a rejected snapshot is sent once more, and rejected once more.
            _log.error("rejections_unreadable", error=str(error))
            self._move_aside(path)
            return []

    # -- files -------------------------------------------------------------------------------------

    def _write_text(self, name: str, text: str) -> None:
        self._write(self._directory / name, lambda file: file.write(f"{text}\n".encode()))

    def _write(self, path: Path, write: Callable[[IO[bytes]], object]) -> None:
        """Put a file in its place, whole or not at all, and durably."""
        tmp = path.with_name(path.name + _TMP_SUFFIX)
        try:
            with tmp.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            tmp.replace(path)
        except BaseException:
            with suppress(OSError):
                tmp.unlink()
            raise
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _file_name(position: Position) -> str:
    # With the store in it: the empty catalogs of two stores have the same revision and digest.
    identity = hashlib.sha256(position.store_uid.encode("utf-8") + b"\0" + position.digest).hexdigest()
    return f"{position.revision:020d}-{identity[:32]}.snapshot"


def _rejected_from_json(fields: dict[str, object]) -> Rejected:
    revision = fields["revision"]
    if not isinstance(revision, int):
        raise ValueError(f"got revision {revision!r}")
    position = Position(
        store_uid=str(fields["store_uid"]), revision=revision, digest=bytes.fromhex(str(fields["digest"]))
    )
    if not position.store_uid or revision < 0 or len(position.digest) != POSITION_DIGEST_BYTES:
        raise ValueError("a rejected position is incomplete")
    return Rejected(position=position, reason=str(fields["reason"]), message=str(fields["message"]))
