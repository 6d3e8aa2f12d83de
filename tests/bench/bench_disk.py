"""What a changed adapter costs on a data plane's disk: `make bench-disk`.

CPU is that of this process, the kernel's part included. Waits depend on the disk.
"""

from __future__ import annotations

import functools
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from dataplane.snapshot.accept import accept
from dataplane.snapshot.change import Change
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from dataplane.sync.directory import SnapshotDirectory
from dataplane.sync.disk.file_disk import FileDisk
from dataplane.sync.stored import limits
from tests.bench.output import percentiles, tell
from tests.raw import POLICY, adapter, model, position, raw, raws

CHANGES = 1000
WHILE_COMPACTING = 2000
"""At most as many changes are saved while a log is compacted."""


def adapters(count: int, *, first: int, uri: str) -> list[RawEntry]:
    """Entries of about 420 bytes, in the order of their names."""
    return [raw(adapter("m", f"a{number:07d}", uri=f"file:///adapters/{uri * 225}")) for number in range(first, count)]


class Line:
    """A snapshot, and the changes of one adapter that follow it."""

    def __init__(self, count: int) -> None:
        self._entries = [*raws(model("m")), *adapters(count, first=0, uri="x")]
        first = accept(position(self._entries), self._entries, held=None, policy=POLICY)
        assert isinstance(first, Snapshot), first
        self.snapshot = first
        self._changes = 0

    def next(self, *, checked: bool = False) -> tuple[Snapshot, Change]:
        """The next snapshot. Only if it is `checked` does it have its own entries."""
        self._changes += 1
        held, number = self.snapshot, 1 + self._changes % (len(self._entries) - 1)
        before, name = self._entries[number], self._entries[number].name
        uri = f"file:///adapters/{self._changes:0225d}"
        entry = self._entries[number] = raw(adapter("m", name.rpartition("/")[2], uri=uri))
        digest = held.digest.removed(name, before.type, before.digest).added(name, entry.type, entry.digest)
        at = Position(store_uid=held.position.store_uid, revision=held.position.revision + 1, digest=digest.root())
        following = replace(held, position=at, digest=digest)
        if checked:
            outcome = accept(at, self._entries, held=None, policy=POLICY)
            assert isinstance(outcome, Snapshot), outcome
            following = outcome
        self.snapshot = following
        return following, Change(base=held.position, entries=(entry,), removed=frozenset())


@contextmanager
def cpu_of(step: str, *, per: int = 1) -> Iterator[None]:
    """Print the CPU time of the block, divided by `per`."""
    began = time.process_time()
    yield
    tell(f"  {step}: {(time.process_time() - began) / per * 1e3:.3f} ms CPU")


def measure(count: int, directory: Path) -> None:
    """Print what a snapshot of `count` adapters and its changes cost."""
    tell(f"{count} adapters")
    line = Line(count)
    disk = opened(directory)
    with cpu_of("whole snapshot"):
        disk.save(line.snapshot)
    prepared = [line.next() for _ in range(CHANGES)]
    cpu, waits = saved(disk, prepared)
    tell(f"  a change: {percentiles(cpu, 'ms', 3)} CPU; {percentiles(waits, 'ms')} until it is on disk")
    (log,) = directory.glob("snapshots/*.log")
    (base,) = directory.glob("snapshots/*.snapshot")
    tell(f"  on disk: snapshot {base.stat().st_size / 1e6:.2f} MB, {log.stat().st_size / CHANGES:.0f} bytes a change")
    disk.close()
    disk = opened(directory)
    with cpu_of(f"start, with {CHANGES} changes"):
        found = disk.boot(functools.partial(accept, held=None, policy=POLICY))
    assert found.snapshot is not None
    assert found.snapshot.position == line.snapshot.position
    measure_compaction(disk, line, limits.bytes_due(base.stat().st_size) // (log.stat().st_size // CHANGES))
    disk.close()


def measure_compaction(disk: SnapshotDirectory, line: Line, changes: int) -> None:
    """Print what a compaction costs for each of the changes after which it is due."""
    last, change = line.next(checked=True)
    prepared = [line.next() for _ in range(WHILE_COMPACTING)]
    limits.COMPACT_RECORDS_MAX = CHANGES + 1
    began, began_wall = time.process_time(), time.monotonic()
    disk.save(last, change)
    limits.COMPACT_RECORDS_MAX = 65_536
    files, waits, cpu = disk._files, list[float](), list[float]()
    while files._compaction is not None and prepared:
        more_cpu, more_waits = saved(disk, [prepared.pop(0)])
        cpu, waits = cpu + more_cpu, waits + more_waits
    files._compacted()
    spent = (time.process_time() - began) * 1e3 - sum(cpu)
    tell(
        f"  compaction: {spent:.0f} ms CPU in {time.monotonic() - began_wall:.2f} s, due after {changes} changes:"
        f" {spent / changes:.4f} ms for each"
    )
    if len(waits) > 1:
        tell(f"  {len(waits)} changes meanwhile: {percentiles(waits, 'ms')}, longest {max(waits):.1f} ms until on disk")


def saved(disk: SnapshotDirectory, prepared: Sequence[tuple[Snapshot, Change]]) -> tuple[list[float], list[float]]:
    """Save each. Returns the milliseconds of CPU of this thread, and those until it is on disk."""
    cpu, waits = list[float](), list[float]()
    for snapshot, change in prepared:
        began, began_wall = time.thread_time(), time.perf_counter()
        disk.save(snapshot, change)
        cpu.append((time.thread_time() - began) * 1e3)
        waits.append((time.perf_counter() - began_wall) * 1e3)
    return cpu, waits


def opened(directory: Path) -> SnapshotDirectory:
    disk = SnapshotDirectory(FileDisk(directory))
    disk.open()
    return disk


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as scratch:
        for count in [int(argument) for argument in sys.argv[1:]] or [1000, 10_000, 100_000]:
            measure(count, Path(scratch) / str(count))
