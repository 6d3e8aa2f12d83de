"""A front-end process: the engine's OpenAI app on a port of its own, for a replica that owns it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog
import uvloop

from broadsheet.v1 import snapshot_pb2
from dataplane.engine.app import ReplicaApp
from dataplane.engine.front_ends import messages
from dataplane.engine.front_ends.channel import Channel
from dataplane.engine.front_ends.seat import FrontEndEngine, Opening
from dataplane.engine.http_server import serve_http
from dataplane.errors import AdapterError, DataPlaneError, EngineStartError
from dataplane.logs import configure_logging
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.openai.tls import ServerTls

_PARENT_POLL_S = 1.0
"""How soon it ends after its replica was killed, if its event loop does not notice at once."""
_CLOSE_TIMEOUT_S = 5.0
"""How long its connections may take to send what is written, when it is asked to stop."""

_log = structlog.get_logger("dataplane.engine.front_ends")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEndSettings:
    """What every front end of a replica has to know."""

    host: str
    """Address to listen on, without brackets."""
    secret: str = field(repr=False)
    """What requests have to carry."""
    tls_cert: Path | None = None
    """PEM file with the certificate chain to listen with. None: HTTP without TLS."""
    tls_key: Path | None = None
    """PEM file with its key."""


def run(opening: Opening, settings: FrontEndSettings, connection: socket.socket) -> None:
    """Be a front end until the replica says so, or ends. The target of a spawned process.

    Args:
        opening: Opens the engine.
        settings: Of the replica.
        connection: The channel to the replica.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, which the replica gets too
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.pid,), daemon=True, name="parent").start()
    configure_logging()
    uvloop.run(_FrontEnd(settings, connection).run(opening))


def _end_with(parent: int | None) -> None:
    """End this process when its parent has ended, whatever the event loop is doing."""
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    os._exit(1)


class _FrontEnd:
    def __init__(self, settings: FrontEndSettings, connection: socket.socket) -> None:
        self._settings = settings
        self._channel = Channel(connection, self._answer)
        self._stop = asyncio.Event()
        self._learning: dict[str, asyncio.Task[None]] = {}
        self._engine: FrontEndEngine
        self._app: ReplicaApp

    async def run(self, opening: Opening) -> None:
        channel = asyncio.create_task(self._channel.run(), name="channel")
        try:
            await self._serve(opening, channel)
        except Exception as error:
            _log.exception("front_end_failed_to_start")
            reason = error.reason if isinstance(error, DataPlaneError) else EngineStartError.reason
            failed = messages.StartFailed(reason, str(error) or type(error).__name__)
            await self._channel.call(messages.FAILED, messages.encode(failed))

    async def _serve(self, opening: Opening, channel: asyncio.Task[None]) -> None:
        self._engine = await opening()
        settings = self._settings
        tls = ServerTls(settings.tls_cert, settings.tls_key) if settings.tls_cert and settings.tls_key else None
        self._app = ReplicaApp(
            self._engine.app,
            secret=settings.secret,
            ensure_adapter=self._ensure,
            is_alive=lambda: self._engine.is_alive,
        )
        server, url, serving = await serve_http(self._app, settings.host, tls)
        reloading = [asyncio.create_task(tls.keep_current(), name="certificate")] if tls is not None else []
        await self._channel.call(messages.READY, messages.encode(messages.Ready(url)))
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        # Without its replica it ends at once, with its requests, as the replica did.
        await asyncio.wait((channel, serving, stop, *reloading), return_when=asyncio.FIRST_COMPLETED)
        if channel.done():
            os._exit(1)
        server.should_exit = True
        await asyncio.wait([serving], timeout=_CLOSE_TIMEOUT_S)
        os._exit(0)  # the engine's own threads may never end

    # --- what the replica asks --------------------------------------------------------------------

    async def _answer(self, method: str, argument: bytes) -> bytes:
        match method:
            case messages.LOAD:
                return messages.encode(messages.Load(self._app.in_flight))
            case messages.FORGET:
                return self._forget(argument.decode())
            case messages.STOP:
                self._stop.set()
                return b""
        raise ValueError(f"unknown call: {method}")

    def _forget(self, name: str) -> bytes:
        if self._app.adapters_in_flight[name]:
            return messages.NO
        self._engine.forget_adapter(name)
        return messages.YES

    # --- what it asks the replica -----------------------------------------------------------------

    async def _ensure(self, entry: snapshot_pb2.AdapterEntry) -> None:
        """Have the engine load an adapter, unless it has.

        Raises:
            AdapterError: it cannot be loaded.
        """
        name = engine_adapter_name(entry)
        if self._engine.knows_adapter(name):
            return
        task = self._learning.get(name)
        if task is None:
            # A task of its own: a caller who leaves does not end it for the others.
            task = self._learning[name] = asyncio.create_task(self._learn(entry), name=f"learn {name}")
            task.add_done_callback(lambda done: self._learned(name, done))
        await asyncio.shield(task)

    async def _learn(self, entry: snapshot_pb2.AdapterEntry) -> None:
        answer = await self._channel.call(messages.ENSURE, entry.SerializeToString())
        ensured: messages.Ensured = msgspec.msgpack.decode(answer, type=messages.Ensured)
        if isinstance(ensured, messages.AdapterRefused):
            raise AdapterError(ensured.message, reason=ensured.reason, retry_after_s=ensured.retry_after_s)
        self._engine.learn_adapter(ensured)

    def _learned(self, name: str, task: asyncio.Task[None]) -> None:
        del self._learning[name]
        if not task.cancelled():
            task.exception()  # retrieved here in case that every caller has left
