"""An engine replica: one engine, its OpenAI app on an HTTP port of its own, and its report on the
relay.

Ray Serve starts, watches and ends it; requests do not come through Ray Serve but straight from the
ingress.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ray
import structlog
import uvicorn
from google.protobuf import json_format
from ray import serve

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.engine import vllm_engine
from dataplane.engine.adapters import AdapterCache
from dataplane.engine.app import AsgiApp, ReplicaApp
from dataplane.engine.liveness import until_silent
from dataplane.engine.simulated import app as simulated
from dataplane.errors import EngineStartError
from dataplane.logs import configure_logging
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.relay.messages import (
    ADAPTERS_PREFIX,
    ENGINE_PREFIX,
    FAILURE_PREFIX,
    PLACED_PREFIX,
    SLEEP_PREFIX,
    EngineReport,
    LiveAdapters,
    SleepOrder,
    StartFailure,
)
from dataplane.relay.relay import Changes, Relay

REPORT_INTERVAL_S = 2.0
"""How often a replica renews its report."""

_LIVENESS_INTERVAL_S = 0.5
"""How soon a dead engine's endpoint is withdrawn."""
_DRAIN_POLL_S = 0.1

_log = structlog.get_logger("dataplane.engine.replica")


class Engine(Protocol):
    """What a replica needs of an engine of any kind."""

    @property
    def app(self) -> AsgiApp: ...
    @property
    def is_alive(self) -> bool:
        """Whether it runs. Not whether it hangs: that takes asking."""

    @property
    def loaded_adapters(self) -> tuple[str, ...]: ...
    @property
    def weights_s(self) -> float | None:
        """How long it read its weights, in seconds; None: not known."""

    async def answer(self) -> None:
        """Comes back when the engine's own loop, which makes the answers, has come round."""

    async def unload_adapter(self, name: str) -> None: ...
    async def sleep(self) -> None: ...
    async def wake(self) -> None: ...
    def shutdown(self) -> None: ...
    def kill(self) -> None:
        """End it whatever it is doing, and with it the requests in it. It is not alive from then
        on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """What an engine replica has to know beyond its model."""

    adapter_dir: Path
    """Where verified adapters are kept."""
    drain_s: float
    """How long it may go on with its requests when it is asked to stop."""
    liveness_timeout_s: float
    """How long the engine may not answer before it is taken for dead."""


@dataclass(frozen=True, slots=True)
class _KnownAdapter:
    entry: snapshot_pb2.AdapterEntry
    path: Path


class EngineReplica:
    """The Ray Serve deployment's class. Its start is the engine's start."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, application: str, entry: bytes, secret: str, settings: ReplicaSettings
    ) -> None:
        configure_logging()
        self._application = application
        self._entry = snapshot_pb2.ModelEntry.FromString(entry)
        self._settings = settings
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        self._relay = Relay()
        # Of its own: another replica must not lose files that this one no longer needs.
        self._adapter_dir = settings.adapter_dir / self._replica_id
        self._cache = AdapterCache(self._adapter_dir)
        self._adapters: dict[str, _KnownAdapter] = {}
        self._rest = SleepOrder()
        self._report_due = asyncio.Event()
        self._stopping = False
        await self._relay.put_once({f"{PLACED_PREFIX}{application}": time.time()})
        started = time.monotonic()
        try:
            self._engine = await self._start_engine()
        except EngineStartError as error:
            await self._report_failure(error)
            raise
        self._start_s = time.monotonic() - started
        self._app = ReplicaApp(
            self._engine.app,
            secret=secret,
            ensure_adapter=self._ensure_adapter,
            is_alive=lambda: self._engine.is_alive,
        )
        self._server, self._url, self._serving = await _serve_http(self._app)
        self._tasks = (
            asyncio.create_task(self._keep_reported(), name="report"),
            asyncio.create_task(self._keep_adapters(), name="adapters"),
            asyncio.create_task(self._rest_as_told(), name="rest"),
        )
        self._asking = asyncio.create_task(self._kill_when_silent(), name="liveness")
        _log.info(
            "engine_ready",
            application=application,
            replica=self._replica_id,
            url=self._url,
            start_s=round(self._start_s, 1),
            weights_s=self._engine.weights_s,
        )

    async def _start_engine(self) -> Engine:
        try:
            if self._entry.revision.spec.engine.kind == model_pb2.Engine.KIND_SIMULATED:
                args = json_format.MessageToDict(self._entry.revision.spec.engine.args)
                return await simulated.start(args)
            return await vllm_engine.start(self._entry, self._adapter_path)
        except ValueError as error:
            raise EngineStartError(str(error), reason="ENGINE_ARGS_INVALID") from error

    async def _report_failure(self, error: EngineStartError) -> None:
        _log.error("engine_failed_to_start", application=self._application, reason=error.reason, message=str(error))
        failure = StartFailure(reason=error.reason, message=str(error), failed_at=time.time())
        await self._relay.put_once({f"{FAILURE_PREFIX}{self._application}/{self._replica_id}": failure})

    def _adapter_path(self, name: str) -> Path | None:
        known = self._adapters.get(name)
        return known.path if known else None

    async def _ensure_adapter(self, entry: snapshot_pb2.AdapterEntry) -> None:
        name = engine_adapter_name(entry)
        if name not in self._adapters:
            path = await self._cache.ensure(entry)
            self._adapters[name] = _KnownAdapter(entry, path)

    async def _keep_reported(self) -> None:
        """Renew this replica's report; withdraw it as soon as the engine is dead."""
        key = f"{ENGINE_PREFIX}{self._application}/{self._replica_id}"
        last: EngineReport | None = None
        while self._engine.is_alive:
            report = EngineReport(
                url=self._url,
                in_flight=self._app.in_flight,
                adapters=tuple(sorted(self._engine.loaded_adapters)),
                failed_adapters=dict(self._app.failed_adapters),
                reported_at=time.time(),
                start_s=self._start_s,
                weights_s=self._engine.weights_s,
                sleep_order=self._rest,
            )
            due = last is None or report.reported_at - last.reported_at >= REPORT_INTERVAL_S
            if due or (last and _worth_a_report(report) != _worth_a_report(last)):
                await self._relay.put({key: report})
                last = report
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._report_due.wait(), _LIVENESS_INTERVAL_S)
            self._report_due.clear()
        _log.error("engine_died", application=self._application, replica=self._replica_id)
        await self._relay.put({}, removed=[key])

    async def _rest_as_told(self) -> None:
        """Have the engine sleep and wake as the agent says, which sends nobody here meanwhile."""
        key = f"{SLEEP_PREFIX}{self._application}"
        known: Changes | None = None
        while True:
            known = await self._relay.watch([key], known)
            told = known.changed.get(key)
            if not isinstance(told, SleepOrder) or told == self._rest:
                continue
            started = time.monotonic()
            # Polled: the end of a request is no event. None comes any more; one whose ingress has
            # died may still run.
            while told.asleep and self._app.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(_DRAIN_POLL_S)
            if told.asleep and not self._rest.asleep:
                await self._engine.sleep()
            elif self._rest.asleep and not told.asleep:
                await self._engine.wake()
            self._rest = told
            self._report_due.set()
            _log.info(
                "engine_asleep" if told.asleep else "engine_awake",
                application=self._application,
                replica=self._replica_id,
                seconds=round(time.monotonic() - started, 2),
            )

    async def _kill_when_silent(self) -> None:
        """An engine that hangs raises no error: its requests end only with its processes."""
        await until_silent(self._engine.answer, self._settings.liveness_timeout_s)
        if self._engine.is_alive:
            _log.error(
                "engine_hung",
                application=self._application,
                replica=self._replica_id,
                silent_s=self._settings.liveness_timeout_s,
            )
            self._engine.kill()
            self._report_due.set()

    async def _keep_adapters(self) -> None:
        """Unload adapters that have left the catalog, once no request uses them."""
        key = f"{ADAPTERS_PREFIX}{self._application}"
        known: Changes | None = None
        live: LiveAdapters | None = None
        while True:
            if live is None or not self._stale(live):
                known = await self._relay.watch([key], known)
            else:
                await asyncio.sleep(_DRAIN_POLL_S)
            live = known.changed.get(key, live) if known else live
            for name in self._stale(live) if live else ():
                if not self._app.adapters_in_flight[name]:
                    await self._forget_adapter(name)

    def _stale(self, live: LiveAdapters) -> list[str]:
        return [
            name
            for name, adapter in self._adapters.items()
            # An adapter that is newer than the list is not in it yet.
            if name not in live.names and adapter.entry.revision.catalog_revision <= live.catalog_revision
        ]

    async def _forget_adapter(self, name: str) -> None:
        adapter = self._adapters.pop(name)
        await self._engine.unload_adapter(name)
        digest = adapter.entry.revision.weights.digest
        if all(other.entry.revision.weights.digest != digest for other in self._adapters.values()):
            await self._cache.forget(digest)
        self._app.failed_adapters.pop(name, None)
        _log.info("adapter_unloaded", adapter=adapter.entry.name, replica=self._replica_id)

    async def check_health(self) -> None:
        """Called by Ray Serve.

        Raises:
            RuntimeError: the engine is dead; Ray Serve then replaces this replica.
        """
        if not self._engine.is_alive:
            raise RuntimeError("the engine has died, or hung and was killed")
        for task in (*self._tasks, self._asking, self._serving):
            if task.done() and not self._stopping:
                raise RuntimeError(f"the replica's {task.get_name()} task has ended")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray Serve: what the autoscaling policy decides by."""
        return {"in_flight": float(self._app.in_flight)}

    async def __del__(self) -> None:
        """Called by Ray Serve, which awaits it, when the replica is to stop: withdraw, drain,
        end."""
        if not hasattr(self, "_tasks"):
            return
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(ray.exceptions.RayError):
            await self._relay.put({}, removed=[f"{ENGINE_PREFIX}{self._application}/{self._replica_id}"])
        deadline = time.monotonic() + self._settings.drain_s
        # Polled: the end of an engine, which ends the wait too, is no event.
        while self._app.in_flight and self._engine.is_alive and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_POLL_S)
        self._asking.cancel()
        self._server.should_exit = True
        await asyncio.wait([self._serving], timeout=5)
        self._engine.shutdown()
        await asyncio.to_thread(shutil.rmtree, self._adapter_dir, ignore_errors=True)
        _log.info("engine_stopped", application=self._application, replica=self._replica_id)


def _worth_a_report(report: EngineReport) -> tuple[object, ...]:
    """What is told at once when it changes."""
    return report.adapters, report.failed_adapters, report.sleep_order


async def _serve_http(app: Callable[..., Awaitable[None]]) -> tuple[uvicorn.Server, str, asyncio.Task[None]]:
    """Serve `app` on a free port of the node's cluster address; back when it accepts
    connections."""
    host = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it: a token waits for no ACK
    listener.bind((host, 0))
    listener.listen(1024)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,
        server_header=False,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    while not server.started:
        if serving.done():
            await serving
            raise RuntimeError("the HTTP server ended while it started")
        await asyncio.sleep(0.01)
    shown = f"[{host}]" if family is socket.AF_INET6 else host
    return server, f"http://{shown}:{listener.getsockname()[1]}", serving
