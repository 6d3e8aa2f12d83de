"""Plans what to do with Ray Serve applications, and what each model's activation is. Pure.

`plan` looks at everything anew each time: what the snapshot wants, what runs, who asked for what.
Nothing is remembered between plans but what the `Situation` carries, so it does not matter whether
the agent has just started.

The rules, for each model, and for each revision that a route pins as if it were a model of its own:

- The application that it should have is named after the digest of all that needs a restart
(`application_name`).
- It is wanted while `min_replicas` is 1 or more, or requests have come within
`downscale_to_zero_delay`, or until
  `warm_until`: a time of the control plane's clock, compared with this machine's. After it, it
  idles away as any other.
- A route moves to it when it has an endpoint; until then the one that served before goes on (make
  before break), unless the entry says `replace_cold`: then the route moves at once, and requests
  are held until it has one.
- One application serves all that want the same: a model and a pin of its current revision, say.
- An application that serves nothing goes when every ingress replica has seen an activation without
  it, and none has a request in it any more.
- One that failed to start goes at once, and is tried again after a backoff while it is wanted.
- A change of scaling alone is put upon the application that runs. Where a pin shares that, the
model's scaling counts.
- With `scaling.idle: SLEEP` one that has run and is no longer wanted stays and sleeps. No request
  is sent to it then. It is woken when it is wanted again, and goes when one that is starting needs
  what it holds (`giving_way`).
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.agent.eviction import Resources, Sleeper, added, giving_way
from dataplane.snapshot.activation import Endpoint, ModelActivation, State
from dataplane.snapshot.snapshot import Snapshot, model_of

APPLICATION_PREFIX = "broadsheet-"
_APPLICATION_DIGEST_CHARACTERS = 12
ASLEEP = "ASLEEP"
"""Reason of an IDLE model whose replicas sleep."""
_UNPLACED_S = 20.0
"""An application of which no replica has begun to start by then waits for room. Ray takes seconds
to begin."""
_RETRYING_S = 5.0
"""When a caller is told to come back while a model that failed is being tried again."""


class Phase(enum.Enum):
    """Where an application is in its life."""

    STARTING = "STARTING"
    """Asked for, and not yet seen answering."""
    RUNNING = "RUNNING"
    """Has had an endpoint. It may have none at the moment, while Ray Serve replaces a replica."""
    FAILED = "FAILED"
    """Could not start."""
    DELETING = "DELETING"
    """Told to go, and still there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """One Ray Serve application as the agent sees it."""

    name: str
    model: str
    """Resource name of its model, also when it was made for a pinned revision of it."""
    revision_number: int
    phase: Phase
    created_at: float
    endpoints: tuple[Endpoint, ...] = ()
    secret: str = field(default="", repr=False)
    replica_bounds: bytes = b""
    """What `replica_bounds` gave for the scaling that it has."""
    ready_at: float | None = None
    """When it first had an endpoint."""
    in_use: int = 0
    """Requests in it, over all ingress replicas."""
    left_sequence: int = 0
    """Sequence of the first activation that it was not in any more; 0 when it never was in one."""
    reason: str = ""
    """FAILED: UPPER_SNAKE."""
    message: str = ""
    """FAILED: the engine's own words. STARTING: what Ray Serve says it waits for."""
    drain_overdue: bool = False
    """It has been left for longer than requests may drain."""
    asleep: bool = False
    """Its replicas were told to sleep."""
    all_asleep: bool = False
    """And they all do."""
    placed: bool = True
    """Ray has found room for a replica of it."""
    resources: Resources = field(default_factory=dict)
    """What one replica takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """That an application could not start, and when it is tried again."""

    count: int
    reason: str
    message: str
    retry_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a plan is made from. Times are seconds since the epoch."""

    now: float
    snapshot: Snapshot
    applications: Mapping[str, Application]
    """By name."""
    serving: Mapping[str, str]
    """By model or pinned revision: the application that the last activation sent requests to."""
    in_flight: Mapping[str, int]
    """By model or pinned revision: requests held or forwarded, over all ingress replicas."""
    last_activity: Mapping[str, float]
    """By model or pinned revision: when it was last asked for."""
    failures: Mapping[str, Failure]
    """By application name."""
    ingress_sequence: int | None
    """The oldest activation that some ingress replica decides by; None when there is no ingress
    replica."""
    free: Resources = field(default_factory=dict)
    """What nobody has taken of the cluster's resources. Only looked at while an application
    sleeps."""


@dataclass(frozen=True, slots=True)
class Deploy:
    """Make this application for this entry."""

    application: str
    entry: snapshot_pb2.ModelEntry


@dataclass(frozen=True, slots=True)
class Rescale:
    """Give this application the scaling of this entry, without touching its replicas."""

    application: str
    entry: snapshot_pb2.ModelEntry


@dataclass(frozen=True, slots=True)
class Delete:
    """Let this application go."""

    application: str


@dataclass(frozen=True, slots=True)
class Sleep:
    """Have this application's replicas sleep."""

    application: str


@dataclass(frozen=True, slots=True)
class Wake:
    """Have them wake."""

    application: str


Action = Deploy | Rescale | Delete | Sleep | Wake


@dataclass(slots=True)
class _Needs:
    """What the plans of the models, one after another, come to."""

    deploys: dict[str, Deploy] = field(default_factory=dict)
    """Applications to make, by name."""
    keep: set[str] = field(default_factory=set)
    """Applications that are needed, awake."""
    rest: set[str] = field(default_factory=set)
    """Applications that somebody would have sleep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, and what is."""

    actions: tuple[Action, ...]
    models: Mapping[str, ModelActivation]
    """By model or pinned revision; those that are simply IDLE are left out."""


def application_name(entry: snapshot_pb2.ModelEntry) -> str:
    """Name of the application for an entry: the model id, and a digest of all that needs new
    replicas when it changes.

    The card, labels, served name, admission and, but for `idle`, scaling are not in it.
    """
    spec = model_pb2.ModelSpec()
    spec.CopyFrom(entry.revision.spec)
    spec.ClearField("admission")
    spec.ClearField("scaling")
    if idle := entry.revision.spec.scaling.idle:
        spec.scaling.idle = idle  # an engine is started as one that can sleep
    identity = entry.uid.encode() + b"\0" + spec.SerializeToString(deterministic=True)
    model_id = model_of(entry.name).removeprefix("models/")
    return f"{APPLICATION_PREFIX}{model_id}-{hashlib.sha256(identity).hexdigest()[:_APPLICATION_DIGEST_CHARACTERS]}"


def replica_bounds(scaling: model_pb2.Scaling) -> bytes:
    """What of a model's scaling is Ray Serve's matter, in a form to compare.

    Not the delay before zero, nor what becomes of the replicas then. And with `min_replicas` 0 as
    with 1 an application is made with one replica; whether it is made at all is this module's
    matter.
    """
    bounds = model_pb2.Scaling()
    bounds.CopyFrom(scaling)
    bounds.ClearField("downscale_to_zero_delay")
    bounds.ClearField("idle")
    bounds.min_replicas = max(1, bounds.min_replicas)
    return bounds.SerializeToString(deterministic=True)


def resources_of(spec: model_pb2.ModelSpec) -> Resources:
    """What one replica takes of the cluster."""
    stated = spec.resources
    taken = {"CPU": stated.cpus, "GPU": float(stated.accelerators), "memory": float(stated.memory_bytes)}
    return {name: amount for name, amount in taken.items() if amount}


def plan(situation: Situation) -> Plan:
    """What to do now, and the activation of each model that has or had an application."""
    needs = _Needs()
    entries: dict[str, snapshot_pb2.ModelEntry] = {}
    models: dict[str, ModelActivation] = {}
    by_model: dict[str, list[Application]] = {}
    for application in situation.applications.values():
        by_model.setdefault(application.model, []).append(application)
    for name in _in_question(situation, by_model):
        entry = situation.snapshot.deployable[name]
        own = by_model.get(model_of(name), [])
        activation = _plan_model(situation, entry, own, needs)
        if activation is not None:
            models[name] = activation
            application_of = application_name(entry)
            if name == model_of(name) or application_of not in entries:
                entries[application_of] = entry
    resting = needs.rest - needs.keep
    kept = needs.keep | (resting - _giving_way(situation, needs, resting))
    return Plan(
        actions=(
            *_deletions(situation, kept),
            *needs.deploys.values(),
            *_rescales(situation, needs.keep, entries),
            *_changes_of_rest(situation, needs.keep, resting & kept),
        ),
        models=models,
    )


def next_failure(
    previous: Failure | None, *, reason: str, message: str, now: float, backoff_s: float, backoff_max_s: float
) -> Failure:
    """The failure after `previous`; the wait until the next try doubles each time."""
    count = previous.count + 1 if previous else 1
    # The exponent is bounded so that the power stays a sane number however long a model goes on
    # failing.
    wait_s = min(backoff_s * 2 ** min(count - 1, 32), backoff_max_s)
    return Failure(count=count, reason=reason, message=message, retry_at=now + wait_s)


def _in_question(situation: Situation, with_applications: Iterable[str]) -> list[str]:
    """What of the snapshot there may be something to do about. The many that nobody uses are not
    looked at."""
    snapshot = situation.snapshot
    names = {*snapshot.wanted_unasked, *situation.last_activity, *situation.in_flight}
    for model in with_applications:
        names.add(model)
        names.update(snapshot.revisions.get(model, ()))
    return sorted(name for name in names if name in snapshot.deployable)


def _plan_model(
    situation: Situation,
    entry: snapshot_pb2.ModelEntry,
    own: list[Application],
    needs: _Needs,
) -> ModelActivation | None:
    """The activation of one model or pinned revision.

    Args:
        situation: all there is.
        entry: what is wanted.
        own: the applications of its model, those of other revisions too: what one revision leaves
        another may need.
        needs: added to.
    """
    target_name = application_name(entry)
    target = next((application for application in own if application.name == target_name), None)
    failure = situation.failures.get(target_name)
    wanted = _is_wanted(situation, entry, target)
    keeps_previous = wanted and not entry.replace_cold
    previous = _previous(situation, entry.name, own, target_name) if keeps_previous else None
    if previous is not None:
        needs.keep.add(previous.name)

    if target is not None and target.phase in (Phase.STARTING, Phase.RUNNING) and wanted:
        needs.keep.add(target_name)
        if target.endpoints:
            return _activation(State.READY, target, revision_number=entry.revision.number)
        if previous is not None:
            state = State.DEGRADED if failure else State.READY
            return _activation(state, previous, revision_number=previous.revision_number, failure=failure)
        if failure is not None:
            # It is being tried again. Until that has come to something, callers are told at once
            # what they were told before, instead of being made to wait for the same answer.
            return _failed(entry, failure, retry_after_s=_RETRYING_S)
        return _deploying(entry, target.name, target.message)

    if failure is not None:
        if target is None and wanted and situation.now >= failure.retry_at:
            needs.deploys.setdefault(target_name, Deploy(target_name, entry))
        if previous is not None:
            return _activation(State.DEGRADED, previous, revision_number=previous.revision_number, failure=failure)
        return _failed(entry, failure, retry_after_s=max(0.0, failure.retry_at - situation.now))
    if not wanted:
        if target is None or target.phase is not Phase.RUNNING or not _sleeps(entry):
            return None
        needs.rest.add(target_name)
        return _resting(entry, target)
    if target is None:
        needs.deploys.setdefault(target_name, Deploy(target_name, entry))
    if previous is not None:
        return _activation(State.READY, previous, revision_number=previous.revision_number)
    return _deploying(entry, target_name)


def _deploying(entry: snapshot_pb2.ModelEntry, application: str, message: str = "") -> ModelActivation:
    return ModelActivation(
        state=State.DEPLOYING, revision_number=entry.revision.number, application=application, message=message
    )


def _resting(entry: snapshot_pb2.ModelEntry, application: Application) -> ModelActivation:
    return ModelActivation(
        state=State.IDLE,
        revision_number=entry.revision.number,
        application=application.name,
        reason=ASLEEP if application.all_asleep else "",
    )


def _sleeps(entry: snapshot_pb2.ModelEntry) -> bool:
    return entry.revision.spec.scaling.idle == model_pb2.Scaling.IDLE_SLEEP


def _failed(entry: snapshot_pb2.ModelEntry, failure: Failure, *, retry_after_s: float) -> ModelActivation:
    return ModelActivation(
        state=State.FAILED,
        revision_number=entry.revision.number,
        reason=failure.reason,
        message=failure.message,
        retry_after_s=retry_after_s,
    )


def _is_wanted(situation: Situation, entry: snapshot_pb2.ModelEntry, target: Application | None) -> bool:
    scaling = entry.revision.spec.scaling
    if scaling.min_replicas > 0 or situation.in_flight.get(entry.name, 0) > 0:
        return True
    if situation.now < entry.warm_until.seconds + entry.warm_until.nanos * 1e-9:
        return True
    keep_s = scaling.downscale_to_zero_delay.ToTimedelta().total_seconds()
    since = situation.last_activity.get(entry.name, float("-inf"))
    if target is not None and target.ready_at is not None:
        since = max(since, target.ready_at)
    elif target is not None:
        # It is still starting: whoever asked may have given up, but may also come back before the
        # deadline for that.
        since = max(since, target.created_at)
        keep_s = max(keep_s, entry.revision.spec.admission.cold_start_timeout.ToTimedelta().total_seconds())
    return situation.now - since < keep_s


def _previous(situation: Situation, model: str, own: Iterable[Application], target_name: str) -> Application | None:
    """The application of another revision that requests go to now, while it can still take them."""
    serving = situation.serving.get(model)
    for application in own:
        if application.name == serving != target_name and application.phase is Phase.RUNNING and application.endpoints:
            return application
    return None


def _deletions(situation: Situation, keep: set[str]) -> list[Action]:
    # The activation without one that is serving is still to be published.
    serving = set(situation.serving.values())
    return [
        Delete(application.name)
        for application in situation.applications.values()
        if application.name not in keep
        and application.phase is not Phase.DELETING
        and (application.phase is Phase.FAILED or _is_released(situation, application, serving))
    ]


def _giving_way(situation: Situation, needs: _Needs, resting: set[str]) -> frozenset[str]:
    """Those of `resting` that have to go, so that others have room."""
    if not resting:
        return frozenset()
    applications = situation.applications
    waiting = [
        application
        for application in applications.values()
        if application.name in needs.keep
        and not application.placed
        and situation.now - application.created_at > _UNPLACED_S
    ]
    wanting = [
        *(application.resources for application in sorted(waiting, key=lambda waits: waits.created_at)),
        *(resources_of(deploy.entry.revision.spec) for deploy in needs.deploys.values()),
    ]
    if not wanting:
        return frozenset()
    free = situation.free
    for application in applications.values():
        if application.phase is Phase.DELETING:
            free = added(free, application.resources)
    longest_unused_first = sorted(
        (applications[name] for name in resting),
        key=lambda sleeper: situation.last_activity.get(sleeper.model, sleeper.created_at),
    )
    return giving_way(wanting, (Sleeper(one.name, one.resources) for one in longest_unused_first), free)


def _changes_of_rest(situation: Situation, keep: set[str], resting: set[str]) -> Iterable[Action]:
    serving = set(situation.serving.values())
    for name, application in situation.applications.items():
        if name in keep and application.asleep:
            yield Wake(name)
        elif name in resting and not application.asleep and _is_released(situation, application, serving):
            yield Sleep(name)


def _rescales(
    situation: Situation, keep: set[str], entries: Mapping[str, snapshot_pb2.ModelEntry]
) -> Iterable[Rescale]:
    """For the applications that are needed and have not the scaling of their entry."""
    for name, entry in entries.items():
        if name in keep and situation.applications[name].replica_bounds != replica_bounds(entry.revision.spec.scaling):
            yield Rescale(name, entry)


def _is_released(situation: Situation, application: Application, serving: set[str]) -> bool:
    """Whether no ingress replica sends requests to the application any more, or has one in it."""
    if application.drain_overdue:
        return True
    if application.name in serving:
        return False
    seen = situation.ingress_sequence
    return application.in_use == 0 and (seen is None or seen >= application.left_sequence)


def _activation(
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
