"""A whole snapshot on disk with the changes that follow it. Blocking: call it in a thread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dataplane.snapshot.change import Change
from dataplane.snapshot.snapshot import RawEntry
from dataplane.sync.disk.disk import Disk
from dataplane.sync.snapshot_file import StoredSnapshot, read_snapshot
from dataplane.sync.stored.limits import LOG_BYTES_MAX
from dataplane.sync.stored.log_format import LogEnd, Point, Recovered, recover
from dataplane.sync.stored.names import in_snapshots, log_name

NO_LOG = LogEnd(offset=0, hash=b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One snapshot file and its log, as they were read. Nothing but their hashes is checked."""

    name: str
    """Of the snapshot file."""
    base: StoredSnapshot
    base_bytes: int
    """Size of the snapshot file."""
    log: Recovered
    """Its points begin with the base, also if there is no log."""
    log_bytes: int
    """Size of the log. 0: there is none."""

    @property
    def newest(self) -> int:
        """The number of the newest point."""
        return len(self.log.points) - 1

    @property
    def is_whole(self) -> bool:
        """Whether nothing follows the newest point, or only a record that was never finished."""
        return not self.log.fault or self.log.torn

    def proven_before(self, number: int) -> int | None:
        """The number of the newest proven point before point `number`; None if there is none."""
        return next((index for index in range(number - 1, -1, -1) if self.log.points[index].proven), None)

    def content(self, number: int) -> StoredSnapshot:
        """The snapshot at a point.

        Raises:
            ValueError: The changes up to there do not lead to as many entries as were written down.
        """
        if number == 0:
            return self.base
        logged = [point.logged for point in self.log.points[1 : number + 1] if point.logged is not None]
        entries = after(self.base.entries, [item.change for item in logged])
        if len(entries) != logged[-1].entry_count:
            raise ValueError(f"the changes lead to {len(entries)} entries, and not to {logged[-1].entry_count}")
        return StoredSnapshot(position=logged[-1].to, entries=entries, signed_head=logged[-1].signed_head)


def after(base: Iterable[RawEntry], changes: Sequence[Change]) -> tuple[RawEntry, ...]:
    """The entries of `base` after all of these changes, ordered by name."""
    by_name = {entry.name: entry for entry in base}
    for change in changes:
        for name in change.removed:
            by_name.pop(name, None)
        by_name.update((entry.name, entry) for entry in change.entries)
    return tuple(sorted(by_name.values(), key=lambda entry: entry.name))


def read_generation(disk: Disk, name: str) -> Generation:
    """Read the snapshot file `name` and its log. What is wrong with the log is in the result.

    Raises:
        OSError: The snapshot file cannot be read.
        ValueError: It is not a snapshot file, or it is damaged.
    """
    path = in_snapshots(name)
    with disk.reader(path) as file:
        base = read_snapshot(file)
    recovered, log_bytes = _read_log(disk, name, base)
    return Generation(name=name, base=base, base_bytes=disk.size(path), log=recovered, log_bytes=log_bytes)


def _read_log(disk: Disk, name: str, base: StoredSnapshot) -> tuple[Recovered, int]:
    # Without a log the file PROBATION says whether the base is proven.
    alone = (Point(position=base.position, logged=None, proven=False, end=NO_LOG),)
    path = in_snapshots(log_name(name))
    if not disk.exists(path):
        return Recovered(points=alone, fault="", torn=False), 0
    try:
        with disk.reader(path) as file:
            recovered = recover(file.read(LOG_BYTES_MAX), base.position)
        log_bytes = disk.size(path)
    except OSError as error:
        return Recovered(points=alone, fault=f"it cannot be read: {error}", torn=False), 1
    points = recovered.points or alone
    return Recovered(points=points, fault=recovered.fault, torn=recovered.torn), log_bytes
