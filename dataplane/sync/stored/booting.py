"""Finds the snapshot to start with, and changes nothing. Blocking: call it in a thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from dataplane.snapshot.rejection import SIGNATURE_REASONS, Rejection
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from dataplane.sync.disk.disk import Disk
from dataplane.sync.probation import Probation
from dataplane.sync.stored.generation import Generation, read_generation
from dataplane.sync.stored.log_format import Point
from dataplane.sync.stored.names import log_name, snapshot_name
from dataplane.sync.stored.pointers import Pointers

CORRUPT_ON_DISK = "CORRUPT_ON_DISK"
"""Reason why a file is put aside. The file is to blame, not the snapshot: it is not rejected."""

CRASHES_MAX = 2
"""After as many crashes on probation a snapshot is rejected."""

_log = structlog.get_logger("dataplane.sync.stored.booting")


class Verify(Protocol):
    """`accept` with its policy, and nothing held."""

    def __call__(
        self, position: Position, entries: Sequence[RawEntry], *, signed_head: bytes
    ) -> Snapshot | Rejection: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A file that is put aside, or a part of it, or one that no trusted key has signed."""

    file: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootable:
    """A snapshot to start with."""

    generation: Generation
    number: int
    """Of its point there. What follows that point is no longer wanted."""
    snapshot: Snapshot
    crashes: int | None
    """How often the process has crashed while it was on probation. None: it needs none. It is
    proven then, or there is no other."""
    crashed: Position | None = None
    """The newest snapshot, which is not booted because the process crashed on it repeatedly."""

    @property
    def point(self) -> Point:
        return self.generation.log.points[self.number]


class BootSearch:
    """One look at the disk, at start."""

    def __init__(self, disk: Disk, pointers: Pointers, probation: Probation, verify: Verify) -> None:
        self.unreadable: list[Unreadable] = []
        self.unusable: list[str] = []
        """Snapshot files of which no point can be booted."""
        self._disk = disk
        self._pointers = pointers
        self._probation = probation
        self._verify = verify
        self._current: str | None = None
        """The snapshot file that CURRENT names, or has most likely named."""
        self._refused: set[tuple[str, int]] = set()
        self._untrusted: set[str] = set()
        """Snapshot files with a point that no trusted key has signed."""

    def find(self, *, count_crashes: bool) -> Bootable | None:
        """The snapshot to start with; None: there is none.

        It never fails, because a data plane must start whatever is on its disk.

        Args:
            count_crashes: Whether repeated crashes on the newest snapshot lead to the one before.
        """
        self._current = self._pointers.current or self._pointers.lost_current
        current = self._read(self._current)
        previous = self._pointers.previous
        other = None if previous == self._current else previous
        if current is not None and count_crashes and (self._crashes(current, current.newest) or 0) >= CRASHES_MAX:
            back = self._first(self._back(current, other))
            if back is not None:
                return replace(back, crashes=None, crashed=current.log.points[-1].position)
        return self._first(self._forward(current, other))

    def _back(self, current: Generation, previous: str | None) -> Iterator[tuple[Generation, int]]:
        """Where to go back to from the newest point of `current`, the best first."""
        proven = current.proven_before(current.newest)
        if proven is not None:
            yield current, proven
        generation = self._read(previous)
        if generation is not None:
            yield generation, generation.proven_before(generation.newest + 1) or 0
        elif proven is None and current.newest > 0:
            yield current, 0

    def _forward(self, current: Generation | None, previous: str | None) -> Iterator[tuple[Generation, int]]:
        """What to start with when nothing has crashed, the best first."""
        if current is not None:
            yield from _newest_first(current)
        generation = self._read(previous)
        if generation is not None:
            yield from _newest_first(generation)

    def _first(self, points: Iterator[tuple[Generation, int]]) -> Bootable | None:
        for generation, number in points:
            snapshot = self._load(generation, number)
            if snapshot is not None:
                crashes = self._crashes(generation, number)
                return Bootable(generation=generation, number=number, snapshot=snapshot, crashes=crashes)
        return None

    def _crashes(self, generation: Generation, number: int) -> int | None:
        """How often the process has crashed on a point on probation; None: it needs none."""
        point = generation.log.points[number]
        if point.proven:
            return None
        recorded = self._probation.crashes_at_start(snapshot_name(point.position))
        if recorded is not None:
            return recorded
        if generation.log_bytes == 0:
            return None
        # Nothing is written when a change begins its probation, and nothing ended it.
        was_served = number == generation.newest and generation.is_whole and generation.name == self._current
        return 1 if was_served else 0

    def _read(self, name: str | None) -> Generation | None:
        if name is None or name in self.unusable:
            return None
        try:
            generation = read_generation(self._disk, name)
        except (OSError, ValueError) as error:
            self._found_unreadable(name, str(error))
            self.unusable.append(name)
            return None
        if not generation.is_whole:
            self._found_unreadable(log_name(name), generation.log.fault)
        return generation

    def _load(self, generation: Generation, number: int) -> Snapshot | None:
        if (generation.name, number) in self._refused:
            return None
        try:
            stored = generation.content(number)
            outcome = self._verify(stored.position, stored.entries, signed_head=stored.signed_head)
            if isinstance(outcome, Snapshot):
                return outcome
            reason, message = outcome.reason, outcome.message
        except ValueError as error:
            reason, message = "", str(error)
        self._refused.add((generation.name, number))
        file = log_name(generation.name) if number else generation.name
        if reason in SIGNATURE_REASONS:
            # With other keys it can be booted: it stays.
            self._untrusted.add(generation.name)
            self.unreadable.append(Unreadable(file=file, reason=reason, message=message))
            return None
        self._found_unreadable(file, f"{reason}: {message}" if reason else message)
        is_refused = all((generation.name, point) in self._refused for _, point in _newest_first(generation))
        if is_refused and generation.name not in self._untrusted:
            self.unusable.append(generation.name)
        return None

    def _found_unreadable(self, file: str, message: str) -> None:
        _log.error("snapshot_file_unreadable", file=file, reason=CORRUPT_ON_DISK, error=message)
        self.unreadable.append(Unreadable(file=file, reason=CORRUPT_ON_DISK, message=message))


def _newest_first(generation: Generation) -> Iterator[tuple[Generation, int]]:
    """The newest point, the newest proven one before it, and the base."""
    newest = generation.newest
    for number in dict.fromkeys((newest, generation.proven_before(newest) or 0, 0)):
        yield generation, number
