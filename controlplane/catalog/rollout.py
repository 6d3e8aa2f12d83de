"""Rollouts: a changed model replaces the old one at once, or step by step while healthy. Pure.

    registered ──▶ RUNNING step 1 ──healthy, held──▶ step 2 … ──▶ COMPLETE
                     │   ▲
                PAUSE│   │RESUME
                     ▼   │
                    PAUSED            RUNNING, PAUSED ──failed, too slow, ABORT──▶ REVERTED

While a rollout is under way, the newest revision gets a share of the requests, and the stable
revision gets the others. A revert makes a new revision with the content of the stable one, as a
rollback does. Only a RUNNING rollout can be too slow.
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
    """The state of the new revision on a connected data plane."""

    data_plane: str
    """Resource name."""
    state: status_pb2.ResourceState.ValueType
    """UNSPECIFIED: it has not reported any yet."""
    reason: str = ""
    message: str = ""
    connect_time: datetime | None = None
    """Since when it is connected (UTC, aware). None: since before the rollout."""


class Move(enum.Enum):
    """A transition of a rollout under way."""

    STEP = enum.auto()
    """To the next step."""
    COMPLETE = enum.auto()
    """The new revision gets all requests."""
    REVERT = enum.auto()
    """The stable revision gets all requests again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A move of a rollout, with its reason."""

    move: Move
    reason: str = ""
    """UPPER_SNAKE reason of a REVERT. Else empty."""
    message: str = ""


def resolved(policy: rollout_pb2.RolloutPolicy) -> rollout_pb2.RolloutPolicy:
    """`policy` with every default filled in, and without fields that this release does not know.

    Raises:
        errors.InvalidArgument: Its steps do not increase.
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
    """Whether a new revision gets the requests at once, even before it has started."""
    is_replace = policy.strategy == rollout_pb2.RolloutPolicy.STRATEGY_REPLACE
    return is_replace and policy.HasField("require_warm") and not policy.require_warm


def is_under_way(model: domain.Model) -> bool:
    """Whether the newest revision shares the requests with the stable one."""
    return model.rollout is not None and model.rollout.state in _UNDER_WAY


def begun(current: domain.Model, changed: domain.Model, stamp: Stamp, *, at_once: bool = False) -> domain.Model:
    """`changed` with the rollout that its policy demands for a changed spec.

    Args:
        current: The model before the change.
        changed: The model after it, before rollouts are considered.
        stamp: Time and revision of the change.
        at_once: Serve the newest revision at once, whatever the policy says.
    """
    if at_once:
        return dataclasses.replace(changed, rollout=None, stable=None)
    if is_under_way(current) and changed.revision.spec == current.revision.spec:
        return _continued(current, changed, stamp)
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
    """The move that is due in a rollout under way, if any.

    Args:
        model: The model that is rolled out.
        observed: The state on every connected data plane that votes. With none connected the
            health is unknown, and nothing moves.
        now: The time (UTC, aware).
    """
    rollout, policy = model.rollout, model.rollout_policy
    if rollout is None or rollout.state not in _UNDER_WAY or not observed:
        return None
    for state in observed:
        if state.state in _FAILED:
            return Decision(move=Move.REVERT, reason=state.reason, message=f"{state.data_plane}: {state.message}")
    if rollout.state == _Rollout.STATE_PAUSED:
        return None
    steps = policy.steps
    hold = steps[rollout.step - 1].hold.ToTimedelta() if rollout.step <= len(steps) else timedelta()
    began = _moment(rollout.update_time)
    waiting = [state for state in observed if not _is_healthy(state, require_warm=policy.require_warm)]
    too_slow_before = now - hold - policy.health_timeout.ToTimedelta()
    # A data plane that has just connected had no time yet, however long the step lasts already.
    slow = [state.data_plane for state in waiting if max(began, state.connect_time or began) <= too_slow_before]
    if slow:
        message = f"not healthy after {(now - began).total_seconds():.0f} s on {', '.join(slow[:3])}"
        return Decision(move=Move.REVERT, reason="HEALTH_TIMEOUT", message=message)
    if waiting or now - began < hold:
        return None
    return Decision(move=Move.STEP if rollout.step < len(steps) else Move.COMPLETE)


def restarted(model: domain.Model, stamp: Stamp) -> domain.Model:
    """`model` with the time of its current step begun anew, after it was not served for a while."""
    if not is_under_way(model) or model.rollout is None:
        return model
    return dataclasses.replace(model, rollout=_changed(model.rollout, stamp))


def moved(model: domain.Model, decision: Decision, stamp: Stamp) -> domain.Model:
    """The model after a move of its rollout, which must be under way."""
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
    """The model after a user paused, resumed or aborted its rollout.

    Raises:
        errors.FailedPrecondition: The state of the rollout does not allow it.
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


def _continued(current: domain.Model, changed: domain.Model, stamp: Stamp) -> domain.Model:
    """`changed`, which has the spec of `current`, with the rollout of `current` at its step.

    A new policy is followed from the current share on, and the time of the step starts again under
    it. REPLACE ends the rollout: each data plane then waits for its own new revision.
    """
    assert current.rollout is not None, "a rollout is under way"
    policy = changed.rollout_policy
    rollout = _Rollout()
    rollout.CopyFrom(current.rollout)
    rollout.revision_number = changed.revision.number
    if policy != current.rollout_policy:
        rollout = _changed(rollout, stamp)
        if policy.strategy != rollout_pb2.RolloutPolicy.STRATEGY_CANARY:
            rollout.state, rollout.percent = _Rollout.STATE_COMPLETE, 100
            return dataclasses.replace(changed, rollout=rollout, stable=None)
        # A share never goes down, so the step is the last one that the share has reached.
        rollout.step = max(1, sum(step.percent <= rollout.percent for step in policy.steps))
        rollout.step_count = len(policy.steps)
        rollout.percent = max(rollout.percent, policy.steps[rollout.step - 1].percent)
    return dataclasses.replace(changed, rollout=rollout)


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
