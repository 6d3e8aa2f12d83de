"""The plan for one model or pinned revision: its activation, and what that needs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broadsheet.v1 import snapshot_pb2
from dataplane.agent.desired import application_name, sleeps_when_idle
from dataplane.agent.giving_up import Failure
from dataplane.agent.reconciler.actions import Deploy
from dataplane.agent.reconciler.demand import is_wanted
from dataplane.agent.situation import Application, Phase, Situation
from dataplane.snapshot.activation import ModelActivation, State

ASLEEP = "ASLEEP"
"""Reason of an IDLE model whose replicas sleep."""
_RETRYING_S = 5.0
"""`Retry-After` for callers while a failed model is being tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """What one model needs."""

    activation: ModelActivation | None
    """None: it is IDLE without an application."""
    keep: tuple[str, ...] = ()
    """Applications that have to stay, awake."""
    deploy: Deploy | None = None
    """The application that it lacks."""
    sleeper: str | None = None
    """The application that it would keep asleep."""


def plan_model(situation: Situation, entry: snapshot_pb2.ModelEntry, own: Mapping[str, Application]) -> ModelPlan:
    """Plan one model or pinned revision.

    Args:
        situation: The moment that is planned for.
        entry: What is wanted.
        own: The applications of its model by name, with those of other revisions: an application
            that one revision no longer needs may be what another one needs.
    """
    target_name = application_name(entry)
    target = own.get(target_name)
    failure = situation.failures.get(target_name)
    wanted = is_wanted(situation, entry, target)
    previous = _previous(situation, entry, own, target_name) if wanted and not entry.replace_cold else None
    keep = (previous.name,) if previous is not None else ()

    if wanted and target is not None and target.phase in (Phase.STARTING, Phase.RUNNING):
        activation = _with_target(entry, target, previous, failure)
        return ModelPlan(activation=activation, keep=(*keep, target_name))
    if failure is not None:
        is_due = wanted and target is None and situation.now >= failure.retry_at
        return ModelPlan(
            activation=_without_target(entry, failure, previous, situation.now),
            keep=keep,
            deploy=Deploy(target_name, entry) if is_due else None,
        )
    if not wanted:
        if target is None or target.phase is not Phase.RUNNING or not sleeps_when_idle(entry):
            return ModelPlan(activation=None)
        return ModelPlan(activation=_sleeping(entry, target), sleeper=target_name)
    deploy = Deploy(target_name, entry) if target is None else None
    if previous is not None:
        activation = _answering(State.READY, previous, revision_number=previous.revision_number)
    else:
        activation = _deploying(entry, target_name)
    return ModelPlan(activation=activation, keep=keep, deploy=deploy)


def _previous(
    situation: Situation, entry: snapshot_pb2.ModelEntry, own: Mapping[str, Application], target_name: str
) -> Application | None:
    """The application of another revision that answers now and can go on answering."""
    serving = situation.serving.get(entry.name)
    if serving is None or serving == target_name:
        return None
    application = own.get(serving)
    if application is None or application.phase is not Phase.RUNNING or not application.endpoints:
        return None
    return application


def _with_target(
    entry: snapshot_pb2.ModelEntry, target: Application, previous: Application | None, failure: Failure | None
) -> ModelActivation:
    """The activation while the application of `entry` starts or runs."""
    if target.endpoints:
        return _answering(State.READY, target, revision_number=entry.revision.number)
    if previous is not None:
        state = State.DEGRADED if failure else State.READY
        return _answering(state, previous, revision_number=previous.revision_number, failure=failure)
    if failure is not None:
        # A retry is under way. Until it has an outcome, callers are refused as before: they need
        # not wait for an answer that is most likely the same.
        return _failed(entry, failure, retry_after_s=_RETRYING_S)
    return _deploying(entry, target.name, target.message)


def _without_target(
    entry: snapshot_pb2.ModelEntry, failure: Failure, previous: Application | None, now: float
) -> ModelActivation:
    """The activation after the application of `entry` was given up."""
    if previous is not None:
        return _answering(State.DEGRADED, previous, revision_number=previous.revision_number, failure=failure)
    return _failed(entry, failure, retry_after_s=max(0.0, failure.retry_at - now))


def _answering(
    state: State, application: Application, *, revision_number: int, failure: Failure | None = None
) -> ModelActivation:
    return ModelActivation(
        state=state,
        revision_number=revision_number,
        application=application.name,
        endpoints=application.endpoints,
        secret=application.secret,
        reason=failure.reason if failure else "",
        message=failure.message if failure else "",
    )


def _deploying(entry: snapshot_pb2.ModelEntry, application: str, message: str = "") -> ModelActivation:
    return ModelActivation(
        state=State.DEPLOYING, revision_number=entry.revision.number, application=application, message=message
    )


def _sleeping(entry: snapshot_pb2.ModelEntry, application: Application) -> ModelActivation:
    return ModelActivation(
        state=State.IDLE,
        revision_number=entry.revision.number,
        application=application.name,
        reason=ASLEEP if application.all_asleep else "",
    )


def _failed(entry: snapshot_pb2.ModelEntry, failure: Failure, *, retry_after_s: float) -> ModelActivation:
    return ModelActivation(
        state=State.FAILED,
        revision_number=entry.revision.number,
        reason=failure.reason,
        message=failure.message,
        retry_after_s=retry_after_s,
    )
