"""Which reports of a data plane go into its history. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.domain import DataPlaneRecord, Position, PositionChange
from controlplane.fleet.progress import Progress, progress_in

UNWRITTEN_MAX = 16
"""Changes of a data plane that wait in memory for the database. Of more, the oldest are lost."""

_SETTLED = frozenset({pb.PHASE_ACTIVE, pb.PHASE_ACTIVE_WITH_ERRORS, pb.PHASE_REJECTED})
"""Phases that are recorded. The others are on the way to one of them."""


class _Place(NamedTuple):
    serving: Position | None
    phase: pb.Phase.ValueType
    reason: str
    rejected: Position | None


@dataclass(slots=True)
class History:
    """The changes of a data plane that are not in the database yet."""

    count: int
    """Changes so far, with those in the database."""
    _last: _Place | None
    """Where the last change has led. None: not known."""
    unwritten: list[PositionChange] = field(default_factory=list)
    """Oldest first, at most UNWRITTEN_MAX."""

    @classmethod
    def of(cls, stored: DataPlaneRecord | None) -> History:
        """The history of a data plane, given its record in the database; None: it is new."""
        return cls(0, None) if stored is None else cls(stored.change_count, _place_of(progress_in(stored)))

    def note(self, progress: Progress, now: datetime) -> None:
        """Take what a data plane has reported, if it is a change."""
        place = _place_of(progress)
        if place is None or place == self._last:
            return
        self._last = place
        self.count += 1
        self.unwritten.append(PositionChange(number=self.count, time=now, **place._asdict()))
        del self.unwritten[:-UNWRITTEN_MAX]

    def written(self, record: DataPlaneRecord) -> None:
        """The database has the changes of this record."""
        if record.changes:
            last = record.changes[-1].number
            self.unwritten = [change for change in self.unwritten if change.number > last]


def _place_of(progress: Progress) -> _Place | None:
    """What of a report is recorded; None: it is on its way."""
    if progress.phase not in _SETTLED:
        return None
    is_rejected = progress.phase == pb.PHASE_REJECTED
    return _Place(
        serving=progress.serving,
        phase=progress.phase,
        reason=progress.reason,
        rejected=progress.target if is_rejected else None,
    )
