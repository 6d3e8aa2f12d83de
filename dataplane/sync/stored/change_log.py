"""The log of the changes that follow a whole snapshot on disk. Blocking: call it in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from dataplane.snapshot.snapshot import Position
from dataplane.sync.disk.disk import Disk
from dataplane.sync.stored import limits
from dataplane.sync.stored.generation import NO_LOG, Generation
from dataplane.sync.stored.log_format import (
    Kind,
    LogEnd,
    LoggedChange,
    Record,
    base_record,
    begin_log,
    change_record,
    encode,
    proven_record,
)
from dataplane.sync.stored.names import in_snapshots, log_name, snapshot_name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compaction:
    """A compaction that is under way."""

    base: Position
    proven: bool
    """Whether `base` was, when it began."""
    since: list[Record]
    """What was appended since. Bounded as the log is."""


class ChangeLog:
    """Appends to the log of one snapshot file. Its file is made with the first change.

    Invariant: the records before `_end` are on disk and lead from the base to `position`.
    """

    def __init__(
        self,
        disk: Disk,
        name: str,
        *,
        base: Position,
        base_bytes: int,
        newest: Position,
        proven: bool,
        any_proven: bool,
        end: LogEnd = NO_LOG,
        records: int = 0,
    ) -> None:
        """
        Args:
            disk: Where the log is.
            name: Of the snapshot file.
            base: Position of the snapshot file.
            base_bytes: Size of the snapshot file.
            newest: Where its changes lead; `base` without any.
            proven: Whether the newest is known to have outlived its probation.
            any_proven: Whether that holds of any snapshot in it, the base included.
            end: Where the next record goes. NO_LOG: the log has no file.
            records: Changes in it.
        """
        self.name = name
        self.position = newest
        self.proven = proven
        self.any_proven = any_proven or proven
        self.base_bytes = base_bytes
        self._disk = disk
        self._base = base
        self._end = end
        self._records = records
        self._dirty = False
        """Whether something may be in the file after `_end`."""
        self._compaction: _Compaction | None = None
        self._put_off_to = 0
        """From how many bytes on it may be compacted."""

    @classmethod
    def alone(cls, disk: Disk, position: Position, base_bytes: int) -> ChangeLog:
        """The log of a snapshot file that was just written. It has no file, and is not proven."""
        name = snapshot_name(position)
        return cls(disk, name, base=position, base_bytes=base_bytes, newest=position, proven=False, any_proven=False)

    @classmethod
    def following(cls, disk: Disk, generation: Generation, number: int, *, base_proven: bool) -> ChangeLog:
        """The log of what was read from disk, as it is when it ends at point `number`.

        Args:
            disk: Where it is.
            generation: What was read.
            number: Of the newest point.
            base_proven: Whether a base without a log is proven.
        """
        points = generation.log.points[: number + 1]
        newest = points[-1]
        alone = newest.end == NO_LOG
        return cls(
            disk,
            generation.name,
            base=generation.base.position,
            base_bytes=generation.base_bytes,
            newest=newest.position,
            proven=newest.proven or (alone and base_proven),
            any_proven=any(point.proven for point in points),
            end=newest.end,
            records=number,
        )

    @property
    def path(self) -> str:
        return in_snapshots(log_name(self.name))

    @property
    def is_due(self) -> bool:
        """Whether it is to be compacted."""
        size = self._end.offset
        return size >= self._put_off_to and limits.is_due(self.base_bytes, size, self._records)

    def record_of(self, logged: LoggedChange) -> Record | None:
        """The record of a change. None: it does not follow, or the log has no room for it."""
        newest, to = self.position, logged.to
        follows = logged.change.base == newest and to.store_uid == newest.store_uid and to.revision > newest.revision
        if not follows:
            return None
        record = change_record(logged)
        has_room = limits.has_room(self.base_bytes, self._end.offset, self._records, len(record.payload))
        return record if has_room else None

    def append_change(self, record: Record, to: Position) -> None:
        """Make `to` the newest, by a record from `record_of`.

        Raises:
            OSError: It could not be written. The newest is the one before.
        """
        self._append(record)
        self._records += 1
        self.position, self.proven = to, False

    def mark_proven(self) -> None:
        """Note that the newest has outlived its probation. A base without a log needs no note.

        Raises:
            OSError: It could not be written.
        """
        if self.proven:
            return
        if self._end != NO_LOG:
            self._append(proven_record(self.position))
        self.proven = self.any_proven = True

    def _append(self, record: Record) -> None:
        if self._end == NO_LOG:
            self._create([*([proven_record(self._base)] if self.proven else []), record])
        else:
            content, end = encode(record, self._end)
            self._write(content)
            self._end = end
        if self._compaction is not None:
            self._compaction.since.append(record)

    def _create(self, records: Sequence[Record]) -> None:
        content, end = begin_log()
        parts = [content]
        for record in (base_record(self._base), *records):
            encoded, end = encode(record, end)
            parts.append(encoded)
        self._disk.write(self.path, lambda file: file.write(b"".join(parts)))
        self._end = end

    def _write(self, content: bytes) -> None:
        if self._dirty:
            self._disk.cut(self.path, self._end.offset)
        self._dirty = True
        try:
            self._disk.append(self.path, content, at=self._end.offset)
        except OSError:
            with suppress(OSError):  # else before the next record
                self._disk.cut(self.path, self._end.offset)
                self._dirty = False
            raise
        self._dirty = False

    # -- compaction --------------------------------------------------------------------------------

    def begin_compaction(self) -> None:
        """Remember from now on what is appended: the newest of now becomes the next base."""
        self._compaction = _Compaction(base=self.position, proven=self.proven, since=[])

    def put_off_compaction(self) -> None:
        """Do not try again before the log has grown, else each change would on a full disk."""
        self._put_off_to = self._end.offset + limits.bytes_due(self.base_bytes) // limits.TRIES

    def end_compaction(self) -> None:
        """Forget what was remembered."""
        self._compaction = None

    def compacted(self, base_bytes: int) -> ChangeLog:
        """Write the log of the next base, whose snapshot file is there, with what has followed it.

        Args:
            base_bytes: Size of that file.

        Raises:
            OSError: It could not be written. This log still holds.
        """
        compaction = self._compaction
        assert compaction is not None, "begin_compaction comes first"
        kinds = [record.kind for record in compaction.since]
        log = ChangeLog(
            self._disk,
            snapshot_name(compaction.base),
            base=compaction.base,
            base_bytes=base_bytes,
            newest=self.position,
            proven=self.proven,
            any_proven=compaction.proven or Kind.PROVEN in kinds,
            records=kinds.count(Kind.CHANGE),
        )
        marks = [proven_record(compaction.base)] if compaction.proven else []
        # It is written also if nothing has followed: a base without a log counts as proven.
        log._create([*marks, *compaction.since])
        return log
