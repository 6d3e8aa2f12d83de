"""What a data plane did with a catalog revision. Pure."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.domain import DataPlaneRecord, Position
from controlplane.fleet.data_plane import DataPlane
from controlplane.fleet.progress import Progress


class Outcome(enum.Enum):
    """What a data plane did with a revision, as `DataPlaneOutcome.Outcome` of the API has it."""

    ACTIVE = "ACTIVE"
    ACTIVE_WITH_ERRORS = "ACTIVE_WITH_ERRORS"
    REJECTED = "REJECTED"
    PENDING = "PENDING"
    MISSING = "MISSING"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlaneOutcome:
    """What one data plane did with a revision."""

    data_plane_id: str
    outcome: Outcome
    serving: Position | None = None
    reason: str = ""
    message: str = ""


def missing(data_plane_id: str, record: DataPlaneRecord | None) -> DataPlaneOutcome:
    """The outcome at a data plane that is not in memory, with what the database has of it."""
    serving = record.serving if record is not None else None
    return DataPlaneOutcome(data_plane_id=data_plane_id, outcome=Outcome.MISSING, serving=serving)


def pending_from(known: DataPlane | None, head: Position, allowed: Position) -> float:
    """The lowest revision that is PENDING at a data plane, as are all higher ones.

    Args:
        known: What is known of it; None: nothing.
        head: The newest snapshot.
        allowed: The newest that it may have.

    Returns:
        It; infinity: no revision is PENDING.
    """
    if known is None or not known.connected:
        return math.inf
    if known.settled_revision == allowed.revision:
        return math.inf if allowed.revision == head.revision else allowed.revision + 1
    serving = known.progress.serving
    return serving.revision + 1 if serving is not None and _is_in_history_of(head, serving) else 0


def outcome_of(
    data_plane_id: str, known: DataPlane, revision: int, head: Position, allowed: Position
) -> DataPlaneOutcome:
    """What a data plane did with `revision`.

    Args:
        data_plane_id: Its id.
        known: What is known of it.
        revision: Of the catalog, at most that of `head`.
        head: The newest snapshot.
        allowed: The newest that it may have.
    """
    progress = known.progress
    answer = DataPlaneOutcome(data_plane_id=data_plane_id, outcome=Outcome.PENDING, serving=progress.serving)
    if not known.connected:
        return replace(answer, outcome=Outcome.MISSING)
    if _is_in_history_of(head, progress.serving) and progress.serves(revision):
        outcome = Outcome.ACTIVE_WITH_ERRORS if progress.with_errors else Outcome.ACTIVE
        return replace(answer, outcome=outcome, message=_warning(progress))
    if known.settled_revision == allowed.revision and (allowed == head or allowed.revision >= revision):
        # Nothing more will be sent, and it serves an older revision: it has rejected that snapshot.
        is_about_head = progress.target == allowed and progress.phase == pb.PHASE_REJECTED
        reason, message = (progress.reason, progress.message) if is_about_head else ("", "")
        return replace(answer, outcome=Outcome.REJECTED, reason=reason, message=message)
    return answer


def _warning(progress: Progress) -> str:
    """What the data plane said with ACTIVE of the snapshot that it serves."""
    return progress.message if progress.target == progress.serving else ""


def _is_in_history_of(head: Position, position: Position | None) -> bool:
    """Whether `position` can be of this catalog.

    A store that was restored from a backup without a new uid has lost its later revisions, and
    gives their numbers to other snapshots.
    """
    return position == head or (
        position is not None and position.store_uid == head.store_uid and position.revision < head.revision
    )
