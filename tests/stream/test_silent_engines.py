"""Engines that hang, and hosts that are lost: no connection is closed, but nothing comes."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from broadsheet.v1 import snapshot_pb2
from dataplane.engine import liveness
from dataplane.engine.app import ReplicaApp
from dataplane.engine.liveness import until_silent
from dataplane.engine.simulated.app import SimulatedEngine
from dataplane.ingress.limits import IngressSettings
from tests import views
from tests.stream.ingress_world import SECRET, World, ready, until

CATALOG = views.snapshot(views.model("m"), views.model("other"))
CHAT = "/v1/chat/completions"
HOST_TIMEOUT_S = 3


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        made = World(stack)
        await made.start(IngressSettings(host_timeout_s=HOST_TIMEOUT_S))
        yield made


# --- an engine that hangs -------------------------------------------------------------------------


async def no_adapters(entry: snapshot_pb2.AdapterEntry) -> None:
    raise AssertionError(f"{entry.name} was requested")


async def replica(world: World, **args: object) -> tuple[SimulatedEngine, str]:
    """An engine as its replica serves it."""
    engine, _ = await world.engine(**args)
    app = ReplicaApp(engine, secret=SECRET, ensure_adapter=no_adapters, is_alive=lambda: engine.is_alive)
    return engine, await world.serve(app)


async def kill_when_silent(engine: SimulatedEngine) -> None:
    await until_silent(engine.answer, 0.5)
    engine.kill()


async def test_requests_in_a_hung_engine_end_when_it_is_killed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "ASK_INTERVAL_S", 0.05)
    monkeypatch.setattr(liveness, "_SLICE_S", 0.1)
    hanging, url = await replica(world, hang_after_requests=1, tokens_per_second=20, text="word " * 1000)
    world.show(CATALOG, m=ready(url))
    watching = asyncio.create_task(kill_when_silent(hanging))
    asked = {"model": "m", "stream": True, "max_tokens": 1000}
    begun = asyncio.create_task(world.post(CHAT, asked))
    await until(lambda: hanging.counters.requests == 1)
    await asyncio.sleep(0.3)
    assert not watching.done()

    cause = asyncio.create_task(world.post(CHAT, asked))
    waiting = asyncio.create_task(world.post(CHAT, {"model": "m"}))
    await until(lambda: hanging.counters.requests == 3)
    healthy, other_url = await replica(world)
    world.show(CATALOG, m=ready(url, other_url), other=ready(other_url))
    assert (await world.post(CHAT, {"model": "other"})).status == 200
    assert not watching.done(), "another model answers meanwhile"

    async with asyncio.timeout(5):
        await watching
        stream = await begun
        # Nothing had come of these two, so the other replica has answered them.
        assert [(await cause).status, (await waiting).status] == [200, 200]
    assert healthy.counters.requests == 3
    *tokens, last = [event for event in stream.body.split(b"\n\n") if event]
    assert stream.status == 200
    assert len(tokens) > 3
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "engine_disconnected"


# --- a host that is lost --------------------------------------------------------------------------


class LostHost:
    """A server with a single connection. Once its host is lost it acknowledges nothing."""

    ATTACH_FILTER = 26
    """SO_ATTACH_FILTER of asm-generic/socket.h. Python has no name for it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connection: socket.socket

    async def begin(self, answer: bytes) -> None:
        """Accept a connection, read a request, answer it."""
        loop = asyncio.get_running_loop()
        self._connection, _ = await loop.sock_accept(self._listener)
        self._connection.setblocking(False)
        await self.go_on(answer)

    async def go_on(self, answer: bytes) -> None:
        """Read a request on the open connection, and answer it."""
        loop = asyncio.get_running_loop()
        await loop.sock_recv(self._connection, 65536)
        await loop.sock_sendall(self._connection, answer)

    def lose(self) -> None:
        """Make the kernel drop every packet of the connection before TCP sees it."""
        drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
        program = struct.pack("HL", 1, ctypes.addressof(drop_all))
        self._connection.setsockopt(socket.SOL_SOCKET, self.ATTACH_FILTER, program)

    def close(self) -> None:
        self._connection.close()
        self._listener.close()


@pytest.fixture
def host() -> Iterator[LostHost]:
    made = LostHost()
    yield made
    made.close()


async def test_a_stream_from_a_host_that_is_lost_ends_with_an_error_event(world: World, host: LostHost) -> None:
    world.show(CATALOG, m=ready(host.url))
    asking = asyncio.create_task(world.post(CHAT, {"model": "m", "stream": True}))
    await host.begin(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\na\r\ndata: {}\n\n\r\n"
    )
    await asyncio.sleep(0.3)  # by then everything is acknowledged
    host.lose()
    began = time.monotonic()
    answer = await asyncio.wait_for(asking, 3 * HOST_TIMEOUT_S)
    assert HOST_TIMEOUT_S - 1 < time.monotonic() - began < HOST_TIMEOUT_S + 3
    assert answer.body.startswith(b"data: {}\n\n")
    error = json.loads(answer.body.rpartition(b"data: ")[2])["error"]
    assert (error["code"], error["type"]) == ("engine_disconnected", "server_error")


async def test_a_request_to_a_host_that_is_lost_is_sent_to_another(world: World, host: LostHost) -> None:
    world.show(CATALOG, m=ready(host.url))
    asking = asyncio.create_task(world.post(CHAT, {"model": "m"}))
    await host.begin(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    assert (await asking).status == 200
    host.lose()
    asking = asyncio.create_task(world.post(CHAT, {"model": "m"}))  # over the connection that was kept
    await until(lambda: world.app.usage()["models/m"].in_flight == 1)
    _, url = await world.engine()
    world.show(CATALOG, m=ready(host.url, url))
    assert (await asyncio.wait_for(asking, 3 * HOST_TIMEOUT_S)).status == 200
