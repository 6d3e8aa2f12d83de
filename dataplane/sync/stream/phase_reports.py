"""Which phases of snapshots are to be reported next. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.snapshot import Position
from dataplane.sync.events import Rejected
from dataplane.sync.resource_report import TEXT_CHARACTERS_MAX
from protocol.validation import plain_text


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseReport:
    """A phase of a snapshot, to be sent. `serving` is of the moment when the phase was reached."""

    target: Position
    serving: Position | None
    phase: pb.Phase.ValueType
    reason: str = ""
    message: str = ""


class PhaseReports:
    """The reports that are due, in order. At most four at a time."""

    def __init__(self) -> None:
        self._due: list[PhaseReport] = []

    def __iter__(self) -> Iterator[PhaseReport]:
        return iter(self._due)

    def __len__(self) -> int:
        return len(self._due)

    def take_status(self, serving: Position | None, *, replace: bool) -> pb.Status:
        """A Status with the next report, which then counts as sent; without one, none is due.

        Args:
            serving: The snapshot in service now.
            replace: As in the Status.
        """
        status = pb.Status(replace=replace)
        if self._due:
            report = self._due.pop(0)
            status.target.CopyFrom(report.target.to_proto())
            status.phase, status.reason, status.message = report.phase, report.reason, report.message
            serving = report.serving
        if serving is not None:
            status.serving.CopyFrom(serving.to_proto())
        return status

    def clear(self) -> None:
        """Forget all of them."""
        self._due = []

    def forget(self, targets: Container[Position]) -> None:
        """Forget those about these snapshots."""
        self._due = [report for report in self._due if report.target not in targets]

    def received(self, target: Position, serving: Position | None) -> None:
        """The whole snapshot has arrived."""
        self._due.append(PhaseReport(target=target, serving=serving, phase=pb.PHASE_RECEIVED))

    def waiting(self, target: Position, serving: Position | None, message: str) -> None:
        """The snapshot waits for something. An earlier reason to wait is left out."""
        self._due = [report for report in self._due if report.phase != pb.PHASE_PREPARED]
        self._due.append(PhaseReport(target=target, serving=serving, phase=pb.PHASE_PREPARED, message=_text(message)))

    def active(self, target: Position, *, with_errors: bool, warning: str) -> None:
        """The snapshot serves."""
        phase = pb.PHASE_ACTIVE_WITH_ERRORS if with_errors else pb.PHASE_ACTIVE
        self._due.append(PhaseReport(target=target, serving=target, phase=phase, message=_text(warning)))

    def rejected(self, rejected: Rejected, serving: Position | None) -> None:
        """The snapshot is rejected as a whole."""
        self._due.append(
            PhaseReport(
                target=rejected.position,
                serving=serving,
                phase=pb.PHASE_REJECTED,
                reason=rejected.reason,
                message=_text(rejected.message),
            )
        )


def _text(message: str) -> str:
    return plain_text(message[:TEXT_CHARACTERS_MAX])
