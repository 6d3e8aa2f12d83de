"""An engine replica: an engine, its OpenAI app on a port of its own, and its report on the relay.

Ray Serve starts, watches and ends it. Requests come straight from the ingress, not through Serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ray
import structlog
from google.protobuf import json_format
from ray import serve

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.engine.adapters import AdapterCache
from dataplane.engine.app import ReplicaApp
from dataplane.engine.engine import Engine
from dataplane.engine.front_ends.front_ends import FrontEnds
from dataplane.engine.front_ends.messages import LoadedAdapter
from dataplane.engine.front_ends.process import FrontEndSettings
from dataplane.engine.http_server import serve_http
from dataplane.engine.liveness import until_silent
from dataplane.engine.new_adapters import NewAdapters
from dataplane.engine.replica_adapters import ReplicaAdapters
from dataplane.engine.simulated import start as simulated
from dataplane.engine.sleep_orders import SleepOrders
from dataplane.engine.vllm import engine as vllm_engine
from dataplane.errors import AdapterError, EngineStartError
from dataplane.logs import configure_logging
from dataplane.node import cores_beside, keep_serve_on_node, node_address
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.openai.tls import ServerTls
from dataplane.relay.actor import open_relay
from dataplane.relay.messages import EngineReport, LiveAdapters, ReplicaPlaced, StartFailure
from dataplane.relay.relay import Relay
from dataplane.relay.topics import Key, Role, Topic, Writer, engine_key
from dataplane.snapshot.snapshot import model_of
from protocol.transport.home import substitutes
from protocol.transport.tls_files import TlsFilesError

REPORT_INTERVAL_S = 2.0
"""How often a replica renews its report."""

_LIVENESS_INTERVAL_S = 0.5
"""How soon the endpoint of a dead engine is withdrawn."""
_DRAIN_POLL_S = 0.1

_log = structlog.get_logger("dataplane.engine.replica")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """What an engine replica has to know beyond its model."""

    data_plane_id: str
    adapter_dir: Path
    """Where verified adapters are kept."""
    home_dir: Path
    """Home directory of an engine whose user has none."""
    drain_s: float
    """How long its requests may go on when it is asked to stop."""
    liveness_timeout_s: float
    """After this long without an answer the engine is taken for hung, and killed."""
    tls_cert: Path | None = None
    """PEM file with the certificate chain to listen with, on each node. None: HTTP without TLS."""
    tls_key: Path | None = None
    """PEM file with its key."""

    def server_tls(self) -> ServerTls | None:
        """The certificate to listen with.

        Raises:
            EngineStartError: It cannot be used.
        """
        if self.tls_cert is None or self.tls_key is None:
            return None
        try:
            return ServerTls(self.tls_cert, self.tls_key)
        except TlsFilesError as error:
            raise EngineStartError(str(error), reason="ENGINE_CERTIFICATE_INVALID") from error


class EngineReplica:
    """The Ray Serve deployment's class. Its start is the engine's start."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, application: str, entry: bytes, secret: str, settings: ReplicaSettings
    ) -> None:
        configure_logging()
        keep_serve_on_node()
        self._application = application
        self._entry = snapshot_pb2.ModelEntry.FromString(entry)
        self._settings = settings
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        self._log = _log.bind(application=application, replica=self._replica_id)
        self._relay = Relay(
            Writer(Role.ENGINE, self._replica_id), open_actor=partial(open_relay, settings.data_plane_id)
        )
        # A directory of its own: another replica must not lose files that this one removes.
        self._adapter_dir = settings.adapter_dir / self._replica_id
        self._adapters = ReplicaAdapters(
            AdapterCache(self._adapter_dir), self._load_adapter, clock=time.monotonic, on_tried=self._adapter_tried
        )
        self._live_adapters: LiveAdapters | None = None
        self._unload_due = asyncio.Event()
        self._report_due = asyncio.Event()
        self._sleep_orders = SleepOrders(in_flight=self._in_flight, on_carried_out=self._report_due.set, log=self._log)
        self._new_adapters = NewAdapters(
            self._adapters.ensure,
            is_asleep=lambda: self._sleep_orders.is_asleep,
            clock=time.monotonic,
            on_tried=self._report_due.set,
        )
        self._stopping = False
        self._front_ends = self._no_front_ends(secret)
        await self._relay.send([ReplicaPlaced(application=application, replica_id=self._replica_id)])
        _give_home(settings.home_dir)
        os.environ.setdefault("VLLM_HOST_IP", node_address())  # where the parts of a parallel engine listen
        started = time.monotonic()
        try:
            tls = settings.server_tls()
            self._engine = await self._start_engine()
        except EngineStartError as error:
            self._front_ends.kill()
            await self._report_failure(error)
            raise
        self._start_s = time.monotonic() - started
        self._app = ReplicaApp(
            self._engine.app,
            secret=secret,
            ensure_adapter=self._adapters.ensure,
            is_alive=lambda: self._engine.is_alive,
        )
        self._server, self._url, self._serving = await serve_http(self._app, node_address(), tls)
        self._tasks = self._begin_tasks(tls)
        self._liveness = asyncio.create_task(self._kill_when_silent(), name="liveness")
        self._log.info(
            "engine_ready",
            url=self._url,
            further_urls=self._front_ends.urls,
            start_s=round(self._start_s, 1),
            weights_s=self._engine.weights_s,
        )

    def _no_front_ends(self, secret: str) -> FrontEnds:
        tls_cert, tls_key = self._settings.tls_cert, self._settings.tls_key
        return FrontEnds(
            FrontEndSettings(host=node_address(), secret=secret, tls_cert=tls_cert, tls_key=tls_key),
            ensure_adapter=self._ensure_for_front_end,
            on_change=self._report_due.set,
            liveness_timeout_s=self._settings.liveness_timeout_s,
        )

    async def _start_engine(self) -> Engine:
        engine = await self._open_engine()
        try:
            await self._front_ends.ready()
        except EngineStartError:
            engine.shutdown()
            raise
        return engine

    async def _open_engine(self) -> Engine:
        try:
            if self._entry.revision.spec.engine.kind == model_pb2.Engine.KIND_SIMULATED:
                args = json_format.MessageToDict(self._entry.revision.spec.engine.args)
                return await simulated.start(args, self._front_ends)
            cores = cores_beside(self._entry.revision.spec.resources.accelerators)
            return await vllm_engine.start(self._entry, self._front_ends, cores)
        except ValueError as error:
            raise EngineStartError(str(error), reason="ENGINE_ARGS_INVALID") from error

    def _begin_tasks(self, tls: ServerTls | None) -> tuple[asyncio.Task[None], ...]:
        return (
            asyncio.create_task(self._keep_reported(), name="report"),
            asyncio.create_task(self._follow_agent(), name="relay"),
            asyncio.create_task(self._sleep_orders.run(self._engine, self._new_adapters.engine_in_use), name="sleep"),
            asyncio.create_task(self._unload_stale_adapters(), name="adapters"),
            asyncio.create_task(self._new_adapters.run(), name="new adapters"),
            *((asyncio.create_task(tls.keep_current(), name="certificate"),) if tls is not None else ()),
        )

    async def _report_failure(self, error: EngineStartError) -> None:
        self._log.error("engine_failed_to_start", reason=error.reason, message=str(error))
        failure = StartFailure(
            application=self._application,
            replica_id=self._replica_id,
            reason=error.reason,
            message=str(error),
        )
        await self._relay.send([failure])

    # --- the report -------------------------------------------------------------------------------

    async def _keep_reported(self) -> None:
        """Renew this replica's report; withdraw it as soon as the engine is dead."""
        key = engine_key(self._application, self._replica_id)
        last: EngineReport | None = None
        while self._is_alive:
            report = self._report()
            due = last is None or report.reported_at - last.reported_at >= REPORT_INTERVAL_S
            if due or (last and _urgent_part(report) != _urgent_part(last)):
                await self._relay.put({key: report})
                last = report
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._report_due.wait(), _LIVENESS_INTERVAL_S)
            self._report_due.clear()
        self._log.error("engine_died")
        self._front_ends.kill()
        await self._relay.put({}, removed=[key])

    def _report(self) -> EngineReport:
        return EngineReport(
            url=self._url,
            further_urls=self._front_ends.urls,
            in_flight=self._app.in_flight + self._front_ends.in_flight_seen,
            adapters=tuple(sorted(self._engine.loaded_adapters)),
            failed_adapters={
                name: f"{failure.reason}: {failure.message}" for name, failure in self._adapters.failures.items()
            },
            reported_at=time.monotonic(),
            start_s=self._start_s,
            weights_s=self._engine.weights_s,
            sleep_order=self._sleep_orders.carried_out,
            model=model_of(self._entry.name),
            adapters_tried=self._new_adapters.tried,
        )

    @property
    def _is_alive(self) -> bool:
        return self._engine.is_alive and not self._front_ends.failed

    async def _in_flight(self) -> int:
        return self._app.in_flight + await self._front_ends.in_flight()

    # --- what the agent wants ---------------------------------------------------------------------

    async def _follow_agent(self) -> None:
        """Receive sleep orders and lists of live adapters, by one long poll for both."""
        sleep_key = Key(Topic.SLEEP_ORDERS, self._application)
        adapters_key = Key(Topic.ADAPTERS, self._application)
        watcher = self._relay.watcher([sleep_key, adapters_key])
        while True:
            changes = await watcher.next()
            if sleep_key in changes.changed:
                self._sleep_orders.give(changes.changed[sleep_key])
            self._live_adapters = changes.changed.get(adapters_key, self._live_adapters)
            self._unload_due.set()
            if self._live_adapters is not None:
                self._new_adapters.offer(self._live_adapters)

    # --- adapters ---------------------------------------------------------------------------------

    async def _load_adapter(self, name: str, path: Path) -> None:
        await self._engine.load_adapter(name, path)

    async def _ensure_for_front_end(self, entry: snapshot_pb2.AdapterEntry) -> LoadedAdapter:
        await self._adapters.ensure(entry)
        return self._engine.adapter(engine_adapter_name(entry))

    def _adapter_tried(self, entry: snapshot_pb2.AdapterEntry, error: AdapterError | None) -> None:
        """Report an adapter that was loaded or failed. It may have left the catalog meanwhile."""
        if error is not None:
            self._log.warning("adapter_unavailable", adapter=entry.name, reason=error.reason, message=str(error))
        self._report_due.set()
        self._unload_due.set()

    async def _unload_stale_adapters(self) -> None:
        """Unload adapters that have left the catalog, once no request uses them."""
        while True:
            await self._unload_due.wait()
            self._unload_due.clear()
            while self._live_adapters is not None and (stale := self._adapters.stale(self._live_adapters)):
                for name in stale:
                    if not self._app.adapters_in_flight[name]:
                        await self._unload_adapter(name)
                await asyncio.sleep(_DRAIN_POLL_S)

    async def _unload_adapter(self, name: str) -> None:
        with self._adapters.leaving(name):
            if not await self._front_ends.forget_adapter(name) or self._app.adapters_in_flight[name]:
                return
            entry = self._adapters.drop(name)
            await self._engine.unload_adapter(name)
            await self._adapters.remove_files(entry)
        self._log.info("adapter_unloaded", adapter=entry.name)

    # --- life and end -----------------------------------------------------------------------------

    async def _kill_when_silent(self) -> None:
        """Kill an engine that hangs: it raises no error, and its requests end only with it."""
        await until_silent(self._engine.answer, self._settings.liveness_timeout_s)
        if self._engine.is_alive:
            self._log.error("engine_hung", silent_s=self._settings.liveness_timeout_s)
            self._engine.kill()
            self._report_due.set()

    async def check_health(self) -> None:
        """Called by Ray Serve.

        Raises:
            RuntimeError: the engine is dead; Ray Serve then replaces this replica.
        """
        if not self._is_alive:
            raise RuntimeError("the engine has died, or hung and was killed, or its front ends end again and again")
        for task in (*self._tasks, self._liveness, self._serving):
            if task.done() and not self._stopping:
                raise RuntimeError(f"the replica's {task.get_name()} task has ended")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray Serve: what the autoscaling policy decides by."""
        return {"in_flight": float(await self._in_flight())}

    async def __del__(self) -> None:
        """Called by Ray Serve, which awaits it, to stop: withdraw, drain, end."""
        if not hasattr(self, "_tasks"):
            return
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(ray.exceptions.RayError):
            await self._relay.put({}, removed=[engine_key(self._application, self._replica_id)])
        deadline = time.monotonic() + self._settings.drain_s
        # Polled: the end of an engine, which ends the wait too, is no event.
        while await self._in_flight() and self._engine.is_alive and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_POLL_S)
        self._liveness.cancel()
        self._server.should_exit = True
        await asyncio.gather(asyncio.wait([self._serving], timeout=5), self._front_ends.stop())
        self._engine.shutdown()
        await asyncio.to_thread(shutil.rmtree, self._adapter_dir, ignore_errors=True)
        self._log.info("engine_stopped")


def _give_home(directory: Path) -> None:
    """Let vLLM and its libraries work for a user without a home directory, or without a name."""
    missing = substitutes(directory)
    if "HOME" in missing:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ.update(missing)


def _urgent_part(report: EngineReport) -> tuple[object, ...]:
    """What is reported at once when it changes."""
    return report.further_urls, report.adapters, report.failed_adapters, report.sleep_order, report.adapters_tried
