"""An ingress replica: the ingress app on a shared port, kept current by the relay.

The ingress replicas of a node share it with SO_REUSEPORT, and their connections evenly
(`ingress.sharing`). A replica that stops gives its listener to another one. Ray Serve starts,
watches and replaces the replicas; its HTTP proxy is not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version

import ray
import structlog
import uvicorn
from ray import serve

from dataplane.ingress.access.rate_limits import Used
from dataplane.ingress.access.relayed_revocations import RelayedRevocations
from dataplane.ingress.app import IngressApp
from dataplane.ingress.engine_trust import EngineTrust
from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.relayed_view import WATCHED, RelayedView
from dataplane.ingress.scaling.metrics import ReplicaMetrics
from dataplane.ingress.scaling.own_load import OwnLoad
from dataplane.ingress.scaling.policy import LOAD
from dataplane.ingress.sharing.channel import place_of
from dataplane.ingress.sharing.server import FIRST_REQUEST_S, SharedServer
from dataplane.ingress.view_holder import ViewHolder
from dataplane.logs import configure_logging
from dataplane.node import keep_serve_on_node
from dataplane.openai.http_protocol import protocol_class
from dataplane.openai.listening import listener_on
from dataplane.openai.tls import ServerTls
from dataplane.relay.actor import open_relay
from dataplane.relay.messages import IngressReport, ModelUsageReport, Wake
from dataplane.relay.relay import Relay
from dataplane.relay.snapshots import read_snapshot
from dataplane.relay.topics import Key, Role, Topic, Writer
from dataplane.settings import Settings
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.snapshot import Position
from dataplane.snapshot.validation import validation_rules
from protocol.transport.open_files import allow_connections

REPORT_INTERVAL_S = 1.0
"""How often a replica renews its report. A new snapshot or activation is reported at once."""

_FIRST_VIEW_S = 5.0
"""How long a replica waits for a snapshot before it listens without one."""
_WAKES_MAX = 10_000
"""Models that wait to be reported as requested."""
LIMITS_PACE_S = 0.2
"""Least time between two looks at what the other replicas have let through. They report it once a
second, each at its own time."""

_log = structlog.get_logger("dataplane.ingress.replica")


class IngressReplica:
    """The Ray Serve deployment's class. Ready when it listens; it starts no model."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        configure_logging()
        keep_serve_on_node()
        self._settings = settings
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        self._relay = Relay(
            Writer(Role.INGRESS, self._replica_id), open_actor=partial(open_relay, settings.data_plane_id)
        )
        self._views = ViewHolder()
        self._wakes: asyncio.Queue[str] = asyncio.Queue(_WAKES_MAX)
        self._report_due = asyncio.Event()
        self._stopping = False
        limits = _limits(settings)
        trust = _engine_trust(settings)
        self._app = IngressApp(
            views=self._views,
            wake=self._wake,
            settings=limits,
            random=random.Random(),  # noqa: S311  # spreads load; nothing secret depends on it
            time_of_day=time.time,
            monotonic=time.monotonic,
            replica=self._replica_id,
            engine_trust=trust,
        )
        tls = _tls(settings)
        config = uvicorn.Config(
            self._app,
            http=protocol_class(limits, self._app.count_refusal),
            ws="none",
            ssl_context_factory=(lambda config, default: tls.context) if tls is not None else None,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=75,
            server_header=False,
            date_header=False,
            proxy_headers=False,  # nothing here depends on the caller's address
            timeout_graceful_shutdown=max(1, int(settings.drain_s)),
        )
        self._server = _shared_server(config, settings, limits)
        self._load = _own_load(settings, self._app)
        self._app.show_metrics(_own_metrics(self._replica_id, self._server, self._load))
        self._revocations = RelayedRevocations(self._relay, self._app.key_access, on_change=self._report_due.set)
        following = asyncio.create_task(self._follow_relay(), name="relay")
        revocations = asyncio.create_task(self._revocations.run(), name="revocations")
        await self._first_view()
        await self._server.join()
        self._tasks = (
            asyncio.create_task(self._server.serve(), name="http"),
            following,
            revocations,
            asyncio.create_task(self._send_wakes(), name="wakes"),
            asyncio.create_task(self._keep_reported(), name="report"),
            asyncio.create_task(self._share_limits(), name="limits"),
            *((asyncio.create_task(tls.keep_current(), name="certificate"),) if tls is not None else ()),
            *((asyncio.create_task(trust.keep_current(), name="authorities"),) if trust is not None else ()),
        )
        _log.info("ingress_listening", replica=self._replica_id, http=settings.http)

    async def _first_view(self) -> None:
        # Replicas share the port. One without a snapshot would refuse what others can answer.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_VIEW_S):
                await self._views.changed(None)

    def _wake(self, model: str) -> None:
        # A full queue drops it. The model is started all the same: the next report says that a
        # request waits for it.
        with contextlib.suppress(asyncio.QueueFull):
            self._wakes.put_nowait(model)

    async def _send_wakes(self) -> None:
        while True:
            models = {await self._wakes.get()}
            while not self._wakes.empty():
                models.add(self._wakes.get_nowait())
            await self._relay.send(Wake(model=model) for model in models)

    async def _follow_relay(self) -> None:
        """Take over each new snapshot and activation."""
        policy = Policy(
            allowed_sources=self._settings.allowed_sources,
            allowed_engine_args=self._settings.allowed_engine_args,
            allow_new_store=True,
        )
        rules = validation_rules(version("broadsheet"), policy)
        relayed = RelayedView(policy, rules, partial(read_snapshot, self._relay))
        watcher = self._relay.watcher(WATCHED)
        # A snapshot may still have keys that were revoked since.
        await self._revocations.known.wait()
        while True:
            view = await relayed.take(await watcher.next())
            if view is not None:
                self._views.swap(view)
                self._report_due.set()

    async def _keep_reported(self) -> None:
        """Renew this replica's report, and what it has let through when that has changed."""
        # The first one is put although it is empty: it is the baseline of the other replicas.
        reported: Mapping[str, Used] | None = None
        while True:
            values: dict[Key, object] = {Key(Topic.INGRESSES, self._replica_id): self._report()}
            used = dict(self._app.key_access.used())
            if used != reported:
                values[Key(Topic.RATE_LIMITS, self._replica_id)] = reported = used
            await self._relay.put(values)
            self._report_due.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._report_due.wait(), REPORT_INTERVAL_S)

    async def _share_limits(self) -> None:
        """Take what the other ingress replicas have let through from the limits here."""
        watcher = self._relay.watcher([Topic.RATE_LIMITS], pace_s=LIMITS_PACE_S)
        live: set[str] = set()
        while True:
            changes = await watcher.next()
            used: dict[str, Mapping[str, Used]] = changes.values(Topic.RATE_LIMITS)
            if changes.is_complete:
                live.clear()
            live = live.union(used).difference(key.name for key in changes.removed)
            used.pop(self._replica_id, None)
            self._app.key_access.take_over(used, live)

    def _report(self) -> IngressReport:
        now = time.monotonic()
        view = self._views.current
        position: Position | None = view.snapshot.position if view else None
        return IngressReport(
            position=position,
            activation_sequence=view.activation.sequence if view else 0,
            models={
                name: ModelUsageReport(
                    in_flight=usage.in_flight,
                    idle_s=now - usage.last_request_at,
                    waiting_callers=usage.waiting_callers,
                    first_byte=usage.first_byte,
                )
                for name, usage in self._app.usage().items()
            },
            applications=dict(self._app.applications_in_use()),
            reported_at=now,
            revocations=self._app.key_access.revocations,
            requests=self._app.traffic.requests,
            failures=self._app.traffic.failures,
        )

    async def check_health(self) -> None:
        """Called by Ray Serve.

        Raises:
            RuntimeError: a part of this replica has ended; Ray Serve then replaces it.
        """
        for task in self._tasks:
            if task.done() and not self._stopping:
                raise RuntimeError(f"the ingress replica's {task.get_name()} task has ended")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray Serve: what the autoscaling policy decides by."""
        return {LOAD: self._load.in_replicas()}

    async def __del__(self) -> None:
        """Called by Ray Serve, which awaits it, to stop: accept nothing more, let requests end."""
        if not hasattr(self, "_tasks"):
            return
        self._stopping = True
        serving, *others = self._tasks
        self._server.stop_accepting()
        await asyncio.sleep(FIRST_REQUEST_S)  # what was accepted before is answered as ever
        self._app.begin_drain()  # requests that wait for a model are refused now, and can go elsewhere
        self._server.should_exit = True
        await asyncio.wait([serving], timeout=self._settings.drain_s)
        for task in others:
            task.cancel()
        await self._app.aclose()
        with contextlib.suppress(ray.exceptions.RayError):
            own = (Key(Topic.INGRESSES, self._replica_id), Key(Topic.RATE_LIMITS, self._replica_id))
            await self._relay.put({}, removed=own)


def _shared_server(config: uvicorn.Config, settings: Settings, limits: IngressSettings) -> SharedServer:
    host, port = settings.http_host, settings.http_port
    return SharedServer(
        config,
        place=place_of(settings.data_plane_id, host, port),
        listen=partial(listener_on, host, port, write_timeout_s=limits.write_timeout_s, shared=True),
        max_connections=limits.max_connections,
    )


def _own_load(settings: Settings, app: IngressApp) -> OwnLoad:
    return OwnLoad(
        target_cpu=settings.ingress_target_cpu,
        target_requests=settings.ingress_target_requests,
        requests=lambda: app.in_flight,
        cpu_s=time.process_time,
        monotonic=time.monotonic,
    )


def _own_metrics(replica: str, server: SharedServer, load: OwnLoad) -> ReplicaMetrics:
    return ReplicaMetrics(
        replica,
        {
            "connections": lambda: server.connections,
            "siblings": lambda: server.siblings,
            "load": load.in_replicas,
            "cpu_seconds": time.process_time,
            "connections_handed_over": lambda: server.handed_over,
            "connections_taken_back": lambda: server.taken_back,
        },
    )


def _limits(settings: Settings) -> IngressSettings:
    return IngressSettings(
        max_body_bytes=settings.max_body_bytes,
        max_held_body_bytes=settings.held_body_bytes_max,
        max_header_bytes=settings.max_header_bytes,
        head_read_timeout_s=settings.head_read_timeout_s,
        max_connections=_max_connections(settings),
        max_connections_per_address=settings.max_connections_per_address,
        body_read_timeout_s=settings.body_read_timeout_s,
        request_timeout_s=settings.request_timeout_s,
        stream_heartbeat_s=settings.stream_heartbeat_s,
        cors_allow_origins=settings.cors_allow_origins,
        cors_allow_credentials=settings.cors_allow_credentials,
        require_api_key=settings.api_key_required,
    )


def _max_connections(settings: Settings) -> int:
    # Each of them may have one to an engine.
    allowed = max(1, allow_connections(2 * settings.max_connections) // 2)
    if allowed < settings.max_connections:
        _log.warning("open_files_limit_is_low", max_connections=settings.max_connections, connections_allowed=allowed)
    return allowed


def _tls(settings: Settings) -> ServerTls | None:
    if settings.http_tls_cert is None or settings.http_tls_key is None:
        return None
    return ServerTls(settings.http_tls_cert, settings.http_tls_key)


def _engine_trust(settings: Settings) -> EngineTrust | None:
    if settings.engine_tls_ca is None:
        return None
    return EngineTrust(settings.engine_tls_ca, settings.engine_tls_server_name)
