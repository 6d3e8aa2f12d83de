"""How a changed model gets to its callers: at once, or step by step while data planes report it
healthy. Pure.

    registered ──▶ RUNNING step 1 ──healthy, held──▶ step 2 … ──▶ COMPLETE
                     │   ▲
                PAUSE│   │RESUME
                     ▼   │
                    PAUSED            RUNNING, PAUSED ──failed, too slow, ABORT──▶ REVERTED

The newest revision is the model's. While its rollout is under way, the model also keeps the stable
revision, which gets the rest of the requests. A revert is a new revision with the content of the
stable one, as a rollback is. Only a RUNNING rollout can be too slow.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from google.protobuf import timestamp_pb2

from broadsheet.v1 import rollout_pb2, status_pb2
from controlplane import errors
from controlplane.catalog import domain
from controlplane.catalog.domain import Stamp

HEALTH_TIMEOUT_DEFAULT_S = 1800

_Rollout = rollout_pb2.Rollout
_UNDER_WAY = (_Rollout.STATE_RUNNING, _Rollout.STATE_PAUSED)
_FAILED = (status_pb2.RESOURCE_STATE_FAILED, status_pb2.RESOURCE_STATE_QUARANTINED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a connected data plane has made of the revision that is rolled out."""

    data_plane: str
    """Resource name."""
    state: status_pb2.ResourceState.ValueType
    """UNSPECIFIED: it has not said anything of it yet."""
    reason: str = ""
    message: str = ""


class Move(enum.Enum):
    """What becomes of a rollout."""

    STEP = enum.auto()
    """The next step."""
    COMPLETE = enum.auto()
    """The new revision takes over."""
    REVERT = enum.auto()
    """The stable one takes over again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A move, and why."""

    move: Move
    reason: str = ""
    """UPPER_SNAKE, of REVERT."""
    message: str = ""


def resolved(policy: rollout_pb2.RolloutPolicy) -> rollout_pb2.RolloutPolicy:
    """`policy` with every default filled in, and without fields that this release does not know.

    Raises:
        errors.InvalidArgument: its steps do not grow.
    """
    known = rollout_pb2.RolloutPolicy()
    known.CopyFrom(policy)
    known.DiscardUnknownFields()
    percents = [step.percent for step in known.steps]
    if percents != sorted(percents):
        raise errors.InvalidArgument.of_field(
            "rollout_policy.steps", f"got {percents} percent: each step must be higher than the one before"
        )
    if known.strategy == rollout_pb2.RolloutPolicy.STRATEGY_UNSPECIFIED:
        known.strategy = rollout_pb2.RolloutPolicy.STRATEGY_REPLACE
    if known.strategy == rollout_pb2.RolloutPolicy.STRATEGY_CANARY:
        if not known.HasField("require_warm"):
            known.require_warm = True
        if not known.HasField("health_timeout"):
            known.health_timeout.seconds = HEALTH_TIMEOUT_DEFAULT_S
    return known


def replaces_cold(policy: rollout_pb2.RolloutPolicy) -> bool:
    """Whether a changed revision takes the place of the one before at once, started or not."""
    is_replace = policy.strategy == rollout_pb2.RolloutPolicy.STRATEGY_REPLACE
    return is_replace and policy.HasField("require_warm") and not policy.require_warm


def is_under_way(model: domain.Model) -> bool:
    """Whether the model's newest revision shares the requests with the stable one."""
    return model.rollout is not None and model.rollout.state in _UNDER_WAY


def begun(current: domain.Model, changed: domain.Model, stamp: Stamp, *, at_once: bool = False) -> domain.Model:
    """`changed`, with the rollout that its policy asks for if its spec is another than what callers
    have now.

    Args:
        current: The model before.
        changed: The model after, without regard to rollouts.
        stamp: What the change is marked with.
        at_once: Put the newest revision in place, whatever the policy says.
    """
    if at_once:
        return dataclasses.replace(changed, rollout=None, stable=None)
    if current.revision.number == changed.revision.number:
        return changed
    stable = current.stable if current.stable is not None else current.revision
    is_canary = changed.rollout_policy.strategy == rollout_pb2.RolloutPolicy.STRATEGY_CANARY
    if not is_canary or changed.revision.spec == stable.spec:
        return dataclasses.replace(changed, rollout=None, stable=None)
    steps = changed.rollout_policy.steps
    return dataclasses.replace(
        changed,
        stable=stable,
        rollout=_Rollout(
            state=_Rollout.STATE_RUNNING,
            revision_number=changed.revision.number,
            stable_number=stable.number,
            step=1,
            step_count=len(steps),
            percent=steps[0].percent,
            create_time=_timestamp(stamp.now),
            update_time=_timestamp(stamp.now),
        ),
    )


def decide(model: domain.Model, observed: Sequence[Observed], now: datetime) -> Decision | None:
    """What is to become of a rollout under way. None: nothing yet.

    Args:
        model: It.
        observed: Every data plane that is connected. With none, nothing is known, and nothing is
        done.
        now: The time (UTC, aware).
    """
    rollout, policy = model.rollout, model.rollout_policy
    if rollout is None or rollout.state not in _UNDER_WAY or not observed:
        return None
    for one in observed:
        if one.state in _FAILED:
            return Decision(move=Move.REVERT, reason=one.reason, message=f"{one.data_plane}: {one.message}")
    if rollout.state == _Rollout.STATE_PAUSED:
        return None
    steps = policy.steps
    hold = steps[rollout.step - 1].hold.ToTimedelta() if rollout.step <= len(steps) else timedelta()
    held = now - _moment(rollout.update_time)
    waiting = [one.data_plane for one in observed if not _is_healthy(one, require_warm=policy.require_warm)]
    if waiting:
        if held < hold + policy.health_timeout.ToTimedelta():
            return None
        message = f"not healthy after {held.total_seconds():.0f} s on {', '.join(waiting[:3])}"
        return Decision(move=Move.REVERT, reason="HEALTH_TIMEOUT", message=message)
    if held < hold:
        return None
    return Decision(move=Move.STEP if rollout.step < len(steps) else Move.COMPLETE)


def moved(model: domain.Model, decision: Decision, stamp: Stamp) -> domain.Model:
    """The model after a move of its rollout, which is under way."""
    assert model.rollout is not None, "a rollout is under way"
    assert model.stable is not None, "a rollout under way has a stable revision"
    rollout = _changed(model.rollout, stamp)
    changed = dataclasses.replace(
        model, rollout=rollout, update_time=stamp.now, catalog_revision=stamp.catalog_revision
    )
    if decision.move is Move.STEP:
        rollout.step += 1
        rollout.percent = model.rollout_policy.steps[rollout.step - 1].percent
        return changed
    if decision.move is Move.COMPLETE:
        rollout.state, rollout.percent = _Rollout.STATE_COMPLETE, 100
        return dataclasses.replace(changed, stable=None)
    rollout.state, rollout.percent = _Rollout.STATE_REVERTED, 0
    rollout.reason, rollout.message = decision.reason, decision.message
    revision = dataclasses.replace(
        model.stable,
        number=model.revision.number + 1,
        create_time=stamp.now,
        catalog_revision=stamp.catalog_revision,
    )
    return dataclasses.replace(changed, revision=revision, stable=None)


def controlled(
    model: domain.Model, action: rollout_pb2.ControlRolloutRequest.Action.ValueType, stamp: Stamp
) -> domain.Model:
    """The model after what somebody asked of its rollout.

    Raises:
        errors.FailedPrecondition: the rollout is not in a state for that.
    """
    request = rollout_pb2.ControlRolloutRequest
    allowed = {request.ACTION_PAUSE: (_Rollout.STATE_RUNNING,), request.ACTION_RESUME: (_Rollout.STATE_PAUSED,)}
    state = model.rollout.state if model.rollout is not None else _Rollout.STATE_UNSPECIFIED
    if model.rollout is None or state not in allowed.get(action, _UNDER_WAY):
        shown = _Rollout.State.Name(state).removeprefix("STATE_") if model.rollout is not None else "none"
        raise errors.FailedPrecondition(
            errors.Reason.ROLLOUT_NOT_IN_STATE,
            f"the rollout of {model.name} is {shown}",
            metadata={"resource": model.name, "state": shown},
        )
    if action == request.ACTION_ABORT:
        return moved(model, Decision(move=Move.REVERT, reason="ABORTED", message="aborted by request"), stamp)
    rollout = _changed(model.rollout, stamp)
    rollout.state = _Rollout.STATE_PAUSED if action == request.ACTION_PAUSE else _Rollout.STATE_RUNNING
    return dataclasses.replace(model, rollout=rollout, update_time=stamp.now, catalog_revision=stamp.catalog_revision)


def _is_healthy(observed: Observed, *, require_warm: bool) -> bool:
    if observed.state == status_pb2.RESOURCE_STATE_IDLE:
        return not require_warm
    return observed.state == status_pb2.RESOURCE_STATE_READY


def _changed(rollout: rollout_pb2.Rollout, stamp: Stamp) -> rollout_pb2.Rollout:
    changed = _Rollout()
    changed.CopyFrom(rollout)
    changed.update_time.CopyFrom(_timestamp(stamp.now))
    return changed


def _timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(moment)
    return message


def _moment(message: timestamp_pb2.Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)
