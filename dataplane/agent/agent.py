"""The agent: receives snapshots, makes the cluster match, and tells the control plane and the
ingress what there is.

One per data plane, run by Ray Serve, which starts it again when it dies. All it needs to go on is
on disk (the last-known-good snapshot) and on the board (its applications, and who uses them).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import time
import uuid
from collections.abc import Mapping
from importlib.metadata import version

import structlog

from broadsheet.v1 import status_pb2
from dataplane.agent import deployments
from dataplane.agent.cluster import WATCHED_PREFIXES, Cluster, Track
from dataplane.agent.deployments import Observed, Standing
from dataplane.agent.reconciler import APPLICATION_PREFIX as MODEL_APPLICATIONS
from dataplane.agent.reconciler import (
    Delete,
    Deploy,
    Failure,
    Phase,
    Rescale,
    Situation,
    Sleep,
    Wake,
    application_name,
    next_failure,
    plan,
    replica_bounds,
    resources_of,
)
from dataplane.agent.status import Statuses, notable_statuses
from dataplane.engine.out_of_memory import start_failure_reason
from dataplane.engine.replica import ReplicaSettings
from dataplane.logs import configure_logging
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.relay.messages import (
    ACTIVATION_KEY,
    ADAPTERS_PREFIX,
    APPLICATION_PREFIX,
    FAILURE_PREFIX,
    PLACED_PREFIX,
    REST_PREFIX,
    SNAPSHOT_KEY,
    WAKE_PREFIX,
    ApplicationRecord,
    LiveAdapters,
    Rest,
    SnapshotPost,
)
from dataplane.relay.relay import Board, Changes
from dataplane.settings import Settings
from dataplane.snapshot.activation import Activation, ModelActivation
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.snapshot import Snapshot, model_of
from dataplane.snapshot.validation import validation_result, validation_rules
from dataplane.sync.keeper import SnapshotKeeper

_TICK_S = 1.0
"""How often is planned when nothing happens: idle times and backoffs end without an event."""
_OBSERVE_BUSY_S = 1.0
"""How often Ray Serve is asked while an application starts or goes."""
_OBSERVE_CALM_S = 10.0
"""How often otherwise: each time costs its controller milliseconds for each application."""
_INGRESS_SWAP_S = 10.0
"""How long an activation waits for the ingress replicas to take over its snapshot before it is
reported."""
_FOLLOWED_S = 0.02

_log = structlog.get_logger("dataplane.agent.agent")


class Agent:
    """The Ray Serve deployment's class."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        configure_logging()
        self._settings = settings
        self._replica_settings = ReplicaSettings(
            adapter_dir=settings.data_dir / "adapters",
            drain_s=settings.drain_s,
            liveness_timeout_s=settings.engine_liveness_timeout_s,
        )
        self._board = Board()
        self._cluster = Cluster()
        policy = Policy(allowed_sources=settings.allowed_sources, allow_new_store=settings.allow_new_store)
        self._rules = validation_rules(version("broadsheet"), policy)
        self._keeper = SnapshotKeeper(
            settings,
            instance_uid=uuid.uuid4().hex,
            policy=policy,
            activate=self._activate,
        )
        self._activation = Activation(sequence=0, models={})
        self._last_activity: dict[str, float] = {}
        self._failures: dict[str, Failure] = {}
        self._cold_starts: dict[str, status_pb2.ColdStart] = {}
        """The latest of each model or pinned revision; they outlive their applications."""
        self._failures_of: Snapshot | None = None
        """For which it was last looked which failures are of applications that nobody wants any
        more."""
        self._posted_adapters: dict[str, LiveAdapters] = {}
        self._statuses = Statuses()
        self._poked = asyncio.Event()
        self._running = asyncio.create_task(self._run(), name="agent")

    async def check_health(self) -> None:
        """Called by Ray Serve.

        Raises:
            RuntimeError: the agent has ended; Ray Serve then starts another.
        """
        if self._running.done():
            error = None if self._running.cancelled() else self._running.exception()
            raise RuntimeError(f"the agent has ended: {error!r}")

    async def __del__(self) -> None:
        """Called by Ray Serve, which awaits it, when the agent is to stop."""
        if not hasattr(self, "_running"):
            return
        self._running.cancel()
        await asyncio.wait([self._running], timeout=5)

    async def _run(self) -> None:
        try:
            known = await self._adopt()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keeper.run())
                group.create_task(self._follow_board(known))
                group.create_task(self._observe_serve())
                group.create_task(self._reconcile())
        except* Exception as group_error:
            for error in group_error.exceptions:
                _log.error("agent_failed", error=repr(error), exc_info=error)
            raise

    async def _adopt(self) -> Changes:
        """Take over what an agent before this one left: its applications, its activation, the
        snapshot on disk."""
        activation = (await self._board.watch([ACTIVATION_KEY], None)).changed.get(ACTIVATION_KEY)
        if isinstance(activation, Activation):
            self._activation = activation
        known = await self._board.watch(WATCHED_PREFIXES, None)
        self._cluster.apply(known.changed, known.live, epoch=known.epoch, now=time.time())
        now = time.time()
        for record in self._cluster.records().values():
            self._last_activity[record.model] = now  # nobody knows better; it idles away if nobody uses it
            rest = {f"{REST_PREFIX}{record.name}": self._cluster.rest(record.name)}
            await self._board.put({f"{APPLICATION_PREFIX}{record.name}": record, **rest})
        await self._keeper.load()
        _log.info(
            "agent_started",
            applications=len(self._cluster.records()),
            revision=self._keeper.snapshot.position.revision if self._keeper.snapshot else None,
        )
        return known

    async def _activate(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the one that the ingress decides by; back when the ingress replicas have
        taken it over."""
        # The activation goes first: a view needs both.
        await self._board.put({ACTIVATION_KEY: self._activation})
        await self._board.put({SNAPSHOT_KEY: SnapshotPost.of(snapshot, validation_result(snapshot, self._rules))})
        self._poked.set()
        deadline = time.monotonic() + _INGRESS_SWAP_S
        while not self._cluster.ingresses_hold(time.time(), snapshot.position):
            if time.monotonic() > deadline:
                _log.warning("ingress_lags", revision=snapshot.position.revision)
                return
            await asyncio.sleep(_FOLLOWED_S)

    async def _follow_board(self, known: Changes) -> None:
        while True:
            known = await self._board.watch(WATCHED_PREFIXES, known)
            self._cluster.apply(known.changed, known.live, epoch=known.epoch, now=time.time())
            self._cluster.note_start_failures()
            self._poked.set()

    async def _observe_serve(self) -> None:
        while True:
            asked_at = time.time()
            observed = await asyncio.to_thread(deployments.observe)
            await self._take_over(observed, asked_at)
            self._poked.set()
            busy = any(
                track.deleting or (track.ready_at is None and track.failure is None)
                for track in self._cluster.tracks.values()
            )
            await asyncio.sleep(_OBSERVE_BUSY_S if busy else _OBSERVE_CALM_S)

    async def _take_over(self, observed: Mapping[str, Observed], asked_at: float) -> None:
        records = self._cluster.records()
        for name, record in records.items():
            if not self._cluster.had_taken_on(record, asked_at):
                continue
            track, seen = self._cluster.tracks.setdefault(name, Track()), observed.get(name)
            if seen is None:
                await self._forget(name)
            elif seen.standing is Standing.FAILED and track.ready_at is None and not track.deleting:
                track.failure = track.failure or (start_failure_reason(seen.message), seen.message)
            else:
                track.serve_message = seen.message
        for name, seen in observed.items():
            ours = name.startswith(MODEL_APPLICATIONS) and name not in deployments.SYSTEM_APPLICATIONS
            if ours and name not in records and seen.standing is not Standing.DELETING:
                _log.warning("unknown_application_deleted", application=name)
                await asyncio.to_thread(deployments.delete, name)

    async def _forget(self, application: str) -> None:
        self._cluster.tracks.pop(application, None)
        self._posted_adapters.pop(application, None)
        failures = [key for key in self._cluster.values if key.startswith(f"{FAILURE_PREFIX}{application}/")]
        own = (APPLICATION_PREFIX, ADAPTERS_PREFIX, PLACED_PREFIX, REST_PREFIX)
        gone = [*(f"{prefix}{application}" for prefix in own), *failures]
        for key in gone:
            self._cluster.values.pop(key, None)
        await self._board.put({}, removed=gone)
        _log.info("application_gone", application=application)

    async def _reconcile(self) -> None:
        while True:
            snapshot = self._keeper.snapshot
            if snapshot is not None:
                await self._reconcile_once(snapshot)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), _TICK_S)
            self._poked.clear()

    async def _reconcile_once(self, snapshot: Snapshot) -> None:
        now = time.time()
        self._cluster.note_activity(now, self._last_activity)
        applications = self._cluster.applications(now, self._settings.drain_s)
        self._note_failures(snapshot, now)
        anyone_sleeps = any(application.asleep for application in applications.values())
        situation = Situation(
            now=now,
            snapshot=snapshot,
            applications=applications,
            serving={name: model.application for name, model in self._activation.models.items() if model.endpoints},
            in_flight=self._cluster.in_flight(now),
            last_activity=self._last_activity,
            failures=self._failures,
            ingress_sequence=self._cluster.ingress_sequence(now),
            free=await asyncio.to_thread(deployments.free_resources) if anyone_sleeps else {},
        )
        planned = plan(situation)
        for model in [model for model in self._last_activity if model not in planned.models]:
            del self._last_activity[model]  # it was too long ago, or the model is gone
        await self._publish(planned.models, now)
        await self._drop_wakes(snapshot)
        for action in planned.actions:
            match action:
                case Deploy():
                    await self._deploy(action)
                case Rescale():
                    await self._rescale(action)
                case Delete():
                    await self._delete(action.application)
                case Sleep():
                    await self._set_rest(action.application, asleep=True)
                case Wake():
                    await self._set_rest(action.application, asleep=False)
        await self._post_adapters(snapshot)
        draining = frozenset(
            application.model
            for application in applications.values()
            if application.model not in planned.models and application.phase is Phase.RUNNING
        )
        self._note_cold_starts(snapshot, planned.models, now)
        notable = notable_statuses(snapshot, planned.models, self._cluster.engines(now), draining, self._cold_starts)
        self._keeper.report(self._statuses.update(snapshot, notable, now))

    def _note_failures(self, snapshot: Snapshot, now: float) -> None:
        for name, track in self._cluster.tracks.items():
            if track.failure is not None and not track.deleting:
                reason, message = track.failure
                if name not in self._failures or self._failures[name].retry_at <= now:
                    self._failures[name] = next_failure(
                        self._failures.get(name),
                        reason=reason,
                        message=message,
                        now=now,
                        backoff_s=self._settings.failure_backoff_s,
                        backoff_max_s=self._settings.failure_backoff_max_s,
                    )
                    _log.warning("application_failed", application=name, reason=reason, message=message)
            elif track.ready_at is not None:
                self._failures.pop(name, None)
        if self._failures and snapshot is not self._failures_of:
            current = {application_name(entry) for entry in snapshot.deployable.values()}
            for name in self._failures.keys() - current:
                del self._failures[name]
            self._failures_of = snapshot

    def _note_cold_starts(self, snapshot: Snapshot, models: Mapping[str, ModelActivation], now: float) -> None:
        known = self._cluster.cold_starts(now)
        for name, activation in models.items():
            if activation.application in known:
                self._cold_starts[name] = known[activation.application]
        for name in self._cold_starts.keys() - snapshot.deployable.keys():
            del self._cold_starts[name]

    async def _publish(self, models: Mapping[str, ModelActivation], now: float) -> None:
        """Make the activation anew if it differs, and note which applications have left it."""
        if _without_countdown(models) == _without_countdown(self._activation.models):
            return
        before = {model.application for model in self._activation.models.values() if model.endpoints}
        after = {model.application for model in models.values() if model.endpoints}
        self._activation = Activation(sequence=self._activation.sequence + 1, models=models)
        for name in before - after:
            track = self._cluster.tracks.get(name)
            if track is not None:
                track.left_sequence, track.left_at = self._activation.sequence, now
        for name in after - before:
            track = self._cluster.tracks.get(name)
            if track is not None:
                track.left_sequence, track.left_at = 0, None
        await self._board.put({ACTIVATION_KEY: self._activation})

    async def _drop_wakes(self, snapshot: Snapshot) -> None:
        """Remove the wakes that have been taken into account."""
        wakes = [f"{WAKE_PREFIX}{model}" for model in self._cluster.wakes()]
        if wakes:
            for key in wakes:
                self._cluster.values.pop(key, None)
            await self._board.put_once({}, removed=wakes)

    async def _deploy(self, action: Deploy) -> None:
        now = time.time()  # of several deployments in one plan each takes a while
        record = ApplicationRecord(
            name=action.application,
            model=model_of(action.entry.name),
            revision_number=action.entry.revision.number,
            entry=action.entry.SerializeToString(deterministic=True),
            replica_bounds=replica_bounds(action.entry.revision.spec.scaling),
            secret=secrets.token_urlsafe(32),
            created_at=now,
            resources=resources_of(action.entry.revision.spec),
        )
        # On the board first: an agent that dies between the two finds a record whose application
        # never came.
        key = f"{APPLICATION_PREFIX}{record.name}"
        self._cluster.values[key] = record
        self._cluster.tracks[record.name] = Track(deployed_at=now)
        await self._board.put({key: record})
        _log.info("deploying", application=record.name, model=record.model, revision=record.revision_number)
        try:
            await asyncio.to_thread(deployments.deploy_model, record, self._replica_settings)
        except Exception as error:
            _log.exception("deploy_failed", application=record.name)
            self._cluster.tracks[record.name].failure = ("DEPLOY_FAILED", f"Ray Serve refused it: {error}")
        else:
            self._cluster.tracks[record.name].taken_on_at = time.time()

    async def _rescale(self, action: Rescale) -> None:
        key = f"{APPLICATION_PREFIX}{action.application}"
        record = dataclasses.replace(
            self._cluster.records()[action.application],
            revision_number=action.entry.revision.number,
            entry=action.entry.SerializeToString(deterministic=True),
            replica_bounds=replica_bounds(action.entry.revision.spec.scaling),
        )
        _log.info("rescaling", application=record.name, model=record.model, revision=record.revision_number)
        try:
            await asyncio.to_thread(deployments.deploy_model, record, self._replica_settings)
        except Exception:
            _log.exception("rescale_failed", application=record.name)  # the next plan tries again
            return
        # Afterwards: an agent that dies between the two leaves one to do it again.
        self._cluster.values[key] = record
        await self._board.put({key: record})

    async def _set_rest(self, application: str, *, asleep: bool) -> None:
        key = f"{REST_PREFIX}{application}"
        rest = Rest(self._cluster.rest(application).sequence + 1, asleep)
        self._cluster.values[key] = rest
        _log.info("putting_to_sleep" if asleep else "waking", application=application)
        await self._board.put({key: rest})

    async def _delete(self, application: str) -> None:
        self._cluster.tracks[application].deleting = True
        _log.info("deleting", application=application)
        await asyncio.to_thread(deployments.delete, application)

    async def _post_adapters(self, snapshot: Snapshot) -> None:
        """Tell the replicas of each application which adapters are in the catalog."""
        records = self._cluster.records()
        stale = {
            name: record
            for name, record in records.items()
            if (posted := self._posted_adapters.get(name)) is None
            or posted.catalog_revision != snapshot.position.revision
        }
        if not stale:
            return
        names: dict[str, set[str]] = {record.model: set() for record in stale.values()}
        for adapter in (*snapshot.adapters.values(), *snapshot.pinned_adapters.values()):
            if adapter.model in names:
                names[adapter.model].add(engine_adapter_name(adapter))
        posts = {
            name: LiveAdapters(catalog_revision=snapshot.position.revision, names=frozenset(names[record.model]))
            for name, record in stale.items()
        }
        self._posted_adapters.update(posts)
        await self._board.put({f"{ADAPTERS_PREFIX}{name}": post for name, post in posts.items()})


def _without_countdown(models: Mapping[str, ModelActivation]) -> dict[str, object]:
    """`models` as far as a change of it is worth an activation: not each second of a backoff."""
    return {
        name: (
            model.state,
            model.revision_number,
            model.application,
            model.endpoints,
            model.reason,
            model.message,
            model.retry_after_s > 0,
        )
        for name, model in models.items()
    }
