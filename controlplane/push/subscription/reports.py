"""What a Status says about a snapshot, and whether it is legal now. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.domain import Position
from controlplane.fleet.progress import NO_CHANGE, Progress, ResourceChange
from controlplane.push.subscription.rejections import Rejections
from controlplane.push.subscription.states import Event, State
from controlplane.push.subscription.violations import (
    check_name,
    check_resource,
    checked_position,
    refuse,
    require_serving,
)

_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_ACTIVE = (pb.PHASE_ACTIVE, pb.PHASE_ACTIVE_WITH_ERRORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A stream as a Status finds it."""

    state: State
    progress: Progress
    in_flight: Position | None
    """The snapshot that is being sent, or whose answer is awaited."""
    rejections: Rejections


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A legal Status."""

    progress: Progress
    """After it."""
    answer: Event | None
    """ACK or NACK, if it answers what is in flight."""
    change: ResourceChange


def read_status(status: pb.Status, stream: Received) -> Report:
    """What a Status reports.

    Raises:
        ProtocolViolation: it is invalid, or illegal now.
    """
    if stream.state is State.HELLO_EXPECTED:
        refuse("the first message must be Hello", "hello")
    serving = checked_position("status.serving", status.serving) if status.HasField("serving") else None
    for resource in status.resources:
        check_resource(resource)
    for name in status.removed:
        check_name("status.removed", name)
    progress, answer = stream.progress, None
    if status.HasField("target"):
        target = checked_position("status.target", status.target)
        _check_progress(status, target, serving, stream)
        progress = _progress_after(status, target, stream.progress)
        answer = _answer(status.phase) if target == stream.in_flight else None
    else:
        if status.phase != pb.PHASE_UNSPECIFIED:
            refuse("a phase came without its target", "status.phase")
        require_serving(serving, stream.progress.serving)
    return Report(progress=progress, answer=answer, change=_resource_change(status))


def _check_progress(status: pb.Status, target: Position, serving: Position | None, stream: Received) -> None:
    in_flight = target == stream.in_flight
    if status.phase in _ACTIVE:
        require_serving(serving, target)
        if in_flight and stream.state is not State.ANSWER_EXPECTED:
            refuse("a snapshot came into service before its Commit", "status.phase")
        if not in_flight and target != stream.progress.serving:
            refuse("a snapshot came into service that is not under way", "status.target")
        return
    require_serving(serving, stream.progress.serving)
    if status.phase == pb.PHASE_REJECTED:
        if _REASON.fullmatch(status.reason) is None:
            refuse("a rejection needs an UPPER_SNAKE reason", "status.reason")
        if not in_flight and target not in stream.rejections:
            refuse("a snapshot was rejected that is not under way", "status.target")
    else:
        _check_advance(status.phase, target, stream)


def _check_advance(phase: pb.Phase.ValueType, target: Position, stream: Received) -> None:
    if phase == pb.PHASE_UNSPECIFIED:
        refuse("a target came without its phase", "status.phase")
    if target != stream.in_flight or stream.state is not State.ANSWER_EXPECTED:
        refuse("a phase came of a snapshot that was not committed", "status.target")
    if target == stream.progress.target and phase < stream.progress.phase:
        refuse("a phase came after a later one", "status.phase")


def _progress_after(status: pb.Status, target: Position, before: Progress) -> Progress:
    is_active = status.phase in _ACTIVE
    is_rejected = status.phase == pb.PHASE_REJECTED
    return Progress(
        serving=target if is_active else before.serving,
        target=target,
        phase=status.phase,
        reason=status.reason if is_rejected else "",
        message=status.message,
        with_errors=status.phase == pb.PHASE_ACTIVE_WITH_ERRORS if is_active else before.with_errors,
    )


def _answer(phase: pb.Phase.ValueType) -> Event | None:
    if phase in _ACTIVE:
        return Event.ACK
    return Event.NACK if phase == pb.PHASE_REJECTED else None


def _resource_change(status: pb.Status) -> ResourceChange:
    if not (status.replace or status.resources or status.removed):
        return NO_CHANGE
    return ResourceChange(replace=status.replace, updated=tuple(status.resources), removed=tuple(status.removed))
