"""The agent: receives snapshots, makes the cluster match, and reports to the control plane.

Each data plane has one agent. Ray Serve runs it, and starts it again when it dies. A new agent
finds everything it needs on disk (the last-known-good snapshot) and in the relay (the applications,
and who uses them). What is known of the applications is in the ledger; this class only moves data
between the ledger, the planner, Ray Serve and the relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from functools import partial
from importlib.metadata import version

import structlog

from broadsheet.v1 import snapshot_service_pb2
from dataplane.agent.deployments import RayServe
from dataplane.agent.executor import Executor
from dataplane.agent.giving_up import Backoff
from dataplane.agent.ingress_revocations import IngressRevocations
from dataplane.agent.ingress_swap import SwapTiming, until_ingress_decides_by
from dataplane.agent.ledger.ledger import Ledger
from dataplane.agent.observer import Observer
from dataplane.agent.reconciler.planning import plan
from dataplane.agent.relayed_snapshot import SnapshotPublisher, find_snapshot
from dataplane.agent.situation import StartLimits
from dataplane.agent.status import Statuses, adapter_statuses, draining_models, notable_statuses
from dataplane.agent.steady_clock import steady_clock
from dataplane.engine.replica import ReplicaSettings
from dataplane.logs import configure_logging
from dataplane.node import keep_serve_on_node
from dataplane.relay.actor import open_relay
from dataplane.relay.relay import Relay
from dataplane.relay.topics import AGENT, Key, Topic
from dataplane.settings import Settings
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.snapshot import Snapshot
from dataplane.snapshot.validation import validation_rules
from dataplane.sync.keeper import SnapshotKeeper

_TICK_S = 1.0
"""Longest time between two plans: idle times and backoffs end without an event."""
_TRAFFIC_S = 5.0
"""Shortest time between two reports of how many requests were answered."""
_STOP_S = 5.0
"""How long the agent's tasks may take to end."""

_log = structlog.get_logger("dataplane.agent.agent")


class Agent:
    """The class of the Ray Serve deployment."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        configure_logging()
        keep_serve_on_node()
        self._relay = Relay(AGENT, open_actor=partial(open_relay, settings.data_plane_id))
        self._plan_due = asyncio.Event()
        self._ledger = Ledger.empty(
            drain_s=settings.drain_s,
            backoff=Backoff(first_s=settings.failure_backoff_s, max_s=settings.failure_backoff_max_s),
            start_limits=StartLimits(
                total=settings.max_concurrent_starts, per_caller=settings.max_concurrent_starts_per_caller
            ),
        )
        self._serve = RayServe(
            ReplicaSettings(
                data_plane_id=settings.data_plane_id,
                adapter_dir=settings.data_dir / "adapters",
                home_dir=settings.data_dir / "home",
                drain_s=settings.drain_s,
                liveness_timeout_s=settings.engine_liveness_timeout_s,
                tls_cert=settings.engine_tls_cert,
                tls_key=settings.engine_tls_key,
            )
        )
        self._clock = steady_clock(wall=time.time, monotonic=time.monotonic)
        self._observer = Observer(
            self._ledger, self._relay, self._serve, clock=self._clock, on_change=self._plan_due.set
        )
        self._executor = Executor(self._ledger, self._relay, self._serve, clock=self._clock)
        policy = Policy(
            allowed_sources=settings.allowed_sources,
            allowed_engine_args=settings.allowed_engine_args,
            allow_new_store=settings.allow_new_store,
        )
        self._publisher = SnapshotPublisher(self._relay, rules=validation_rules(version("broadsheet"), policy))
        self._keeper = SnapshotKeeper(
            settings,
            instance_uid=uuid.uuid4().hex,
            policy=policy,
            activate=self._activate,
            ingress=IngressRevocations(
                self._relay,
                positions=self._ledger.usage.ingress_revocations,
                serve=self._serve,
                timing=SwapTiming(),
            ),
        )
        self._statuses = Statuses()
        self._traffic_due = 0.0
        """On `_clock`."""
        self._running = asyncio.create_task(self._run(), name="agent")

    async def check_health(self) -> None:
        """Called by Ray Serve.

        Raises:
            RuntimeError: the agent has ended. Ray Serve then starts another one.
        """
        if self._running.done():
            error = None if self._running.cancelled() else self._running.exception()
            raise RuntimeError(f"the agent has ended: {error!r}")

    async def __del__(self) -> None:
        """Called by Ray Serve, which awaits it, when the agent is to stop."""
        if not hasattr(self, "_running"):
            return
        self._running.cancel()
        await asyncio.wait([self._running], timeout=_STOP_S)

    async def _run(self) -> None:
        try:
            await self._observer.adopt()
            await self._keeper.load(await find_snapshot(self._relay))
            _log.info(
                "agent_started",
                applications=len(self._ledger.applications.names()),
                revision=self._keeper.snapshot.position.revision if self._keeper.snapshot else None,
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keeper.run())
                group.create_task(self._publisher.keep_compact())
                group.create_task(self._observer.follow_reports())
                group.create_task(self._observer.receive_messages())
                group.create_task(self._observer.observe_serve())
                group.create_task(self._reconcile())
        except* Exception as group_error:
            for error in group_error.exceptions:
                _log.error("agent_failed", error=repr(error), exc_info=error)
            raise

    async def _activate(self, snapshot: Snapshot) -> None:
        """Put a snapshot into service. Returns when every ingress replica decides by it."""
        # The activation comes first, because an ingress replica needs both to answer.
        await self._relay.put({Key(Topic.ACTIVATION): self._ledger.activation})
        await self._publisher.put(snapshot, withdrawn=self._keeper.withdrawn)
        self._plan_due.set()
        await until_ingress_decides_by(
            snapshot.position,
            positions=self._ledger.usage.ingress_positions,
            serve=self._serve,
            on_lag=self._keeper.report_waiting,
            timing=SwapTiming(),
        )
        # With the snapshot becomes known which adapters running engines have still to try. Whoever
        # waits for one would otherwise see it IDLE for a moment.
        adapters = adapter_statuses(snapshot, self._ledger.applications.engines(self._clock()))
        if adapters:
            self._keeper.report(self._statuses.with_adapters(adapters, time.time()))

    async def _reconcile(self) -> None:
        while True:
            snapshot = self._keeper.snapshot
            if snapshot is not None:
                await self._reconcile_once(snapshot)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._plan_due.wait(), _TICK_S)
            self._plan_due.clear()

    async def _reconcile_once(self, snapshot: Snapshot) -> None:
        any_asleep = self._ledger.applications.any_asleep()
        free = await asyncio.to_thread(self._serve.free_resources) if any_asleep else {}
        # There is no await between `situation` and `planned`: a wake that came in between would be
        # forgotten with the activity of the models that the plan found idle.
        now = self._clock()
        situation = self._ledger.situation(snapshot, now=now, time_of_day=time.time(), free=free)
        planned = plan(situation)
        activation = self._ledger.planned(snapshot, planned.models, now)
        if activation is not None:
            await self._relay.put({Key(Topic.ACTIVATION): activation})
        await self._executor.carry_out(planned.actions)
        await self._executor.publish_adapters(snapshot)
        notable = notable_statuses(
            snapshot,
            planned.models,
            self._ledger.applications.engines(now),
            draining_models(situation.applications.values(), planned.models.keys()),
            self._ledger.cold_starts(),
        )
        self._keeper.report(self._statuses.update(snapshot, notable, time.time()), self._traffic(now))

    def _traffic(self, now: float) -> snapshot_service_pb2.Traffic | None:
        """What the ingress has answered, now and then; None: it is not due."""
        if now < self._traffic_due:
            return None
        self._traffic_due = now + _TRAFFIC_S
        traffic = self._ledger.usage.traffic
        return snapshot_service_pb2.Traffic(requests=traffic.requests, failures=traffic.failures)
