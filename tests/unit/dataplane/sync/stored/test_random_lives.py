"""Random lives of a data plane: changes, compactions, crashes, power cuts and full disks."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from random import Random

import pytest
import structlog

from dataplane.snapshot.snapshot import Position, Snapshot
from dataplane.sync.directory import DiskError, SnapshotDirectory
from dataplane.sync.probation import PROBATION_S
from dataplane.sync.stored import limits
from dataplane.sync.stored.booting import CRASHES_MAX
from tests.disk import change, snapshot, verify
from tests.memory_disk import MemoryDisk, PowerCut

LIVES = 100
STEPS = 60


class Life:
    """One data plane, and what is known of it.

    Invariants, checked at each start: what is booted is committed; it is not behind the newest
    proven snapshot; and unless the process went down CRASHES_MAX times on the newest snapshot that
    was acknowledged, it is that one, or the one that was being saved.
    """

    def __init__(self, seed: int) -> None:
        self.starts = 0
        self._random = Random(seed)
        self._now_s = 0.0
        self._files: dict[str, bytes] = {}
        self._last_revision = 0
        self._newest: Snapshot | None = None
        """Acknowledged."""
        self._saving: Snapshot | None = None
        self._proven = 0
        """Revision of the newest that is known to be proven on disk."""
        self._crashes = 0
        """Unclean stops since the newest was acknowledged."""
        self._start()

    def _start(self) -> None:
        self.starts += 1
        cut_in = self._random.randrange(1, 60) if self._random.random() < 0.5 else None
        self._disk = MemoryDisk(self._files, cut_in=cut_in, done=self._random.choice((0.0, 0.3, 0.9, 1.0)))
        self._waiting: list[Callable[[], None]] = []
        self._directory = SnapshotDirectory(self._disk, clock=lambda: self._now_s, background=self._background)
        self._directory.open()
        boot = self._directory.boot(verify)
        assert boot.unreadable == ()
        self._check(boot.snapshot)
        if _position(boot.snapshot) != _position(self._newest):
            went_down_on_it = _position(boot.snapshot) == _position(self._saving)
            self._crashes = 1 if went_down_on_it else 0
        self._newest, self._saving = boot.snapshot, None

    def _background(self, work: Callable[[], None]) -> Callable[[], None]:
        self._waiting.append(work)
        return lambda: None

    def _check(self, booted: Snapshot | None) -> None:
        if booted is None:
            assert self._newest is None
            return
        assert booted.entries == snapshot(booted.position.revision).entries
        assert booted.position.revision >= self._proven
        if self._crashes < CRASHES_MAX:
            assert booted.position in (_position(self._newest), _position(self._saving))

    def live(self, steps: int) -> None:
        for _ in range(steps):
            try:
                self._random.choices(
                    (self._save, self._settle, self._compact, self._crash, self._stop), weights=(60, 15, 12, 8, 5)
                )[0]()
            except PowerCut:
                self._crashed()

    def _save(self) -> None:
        self._last_revision += 1
        self._saving = following = snapshot(self._last_revision)
        as_change = self._newest is not None and self._random.random() < 0.85
        full = self._random.random() < 0.05
        self._disk.fault = OSError(errno.ENOSPC, "full") if full else None
        try:
            self._directory.save(following, change(self._newest, following) if as_change and self._newest else None)
        except DiskError:
            assert full
            # It is served from memory. The next is no change of what is on disk.
            self._last_revision += 1
            self._disk.fault = None
            self._saving = following = snapshot(self._last_revision)
            self._directory.save(following, change(snapshot(self._last_revision - 1), following))
        self._disk.fault = None
        self._newest, self._saving, self._crashes = following, None, 0

    def _settle(self) -> None:
        self._now_s += self._random.choice((5.0, PROBATION_S))
        if self._directory.settle() and self._newest is not None:
            self._proven = self._newest.position.revision

    def _compact(self) -> None:
        while self._waiting:
            self._waiting.pop()()

    def _crash(self) -> None:
        self._crashed()

    def _stop(self) -> None:
        self._directory.close()
        self._files = self._disk.files
        self._start()

    def _crashed(self) -> None:
        self._crashes += 1
        self._files = self._disk.files
        while True:
            try:
                return self._start()
            except PowerCut:
                self._files = self._disk.files
                self._crashes += 1


def _position(snapshot: Snapshot | None) -> Position | None:
    return snapshot.position if snapshot else None


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compact from the third change on, and log nothing."""
    monkeypatch.setattr(limits, "COMPACT_RECORDS_MAX", 3)
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


def test_what_is_proven_or_acknowledged_is_booted_whatever_happens() -> None:
    starts = 0
    for seed in range(LIVES):
        life = Life(seed)
        try:
            life.live(STEPS)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
        starts += life.starts
    assert starts > 5 * LIVES
