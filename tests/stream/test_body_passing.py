"""The body of an answer on its way to a caller whose server writes pieces at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest

from dataplane.ingress.limits import IngressSettings
from dataplane.openai.asgi import Scope
from tests import views
from tests.stream.ingress_world import World, ready, until
from tests.stream.raw_server import RawServer

PATH = "/v1/chat/completions"
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
USAGE = b'data: {"choices":[],"usage":{"total_tokens":7}}\n\n'
KEY = "bs-key"


class Caller:
    """The server's side of one request. It offers `broadsheet.write`."""

    def __init__(self, *, reads_slowly: bool = False, key: str = "") -> None:
        self.body = bytearray()
        self.written = 0
        """Pieces that came without a message."""
        self.messages: list[MutableMapping[str, Any]] = []
        self.left = asyncio.Event()
        self.must_wait = False
        self._reads_slowly = reads_slowly
        self._request = [{"type": "http.request", "body": b'{"model":"m","stream":true}', "more_body": False}]
        headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
        self.scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "extensions": {"broadsheet.write": self.write},
        }

    async def receive(self) -> MutableMapping[str, Any]:
        if self._request:
            return self._request.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await asyncio.sleep(0.001 if self.must_wait else 0)
        self.must_wait = False
        self.messages.append(message)
        self.body += message.get("body", b"")

    def write(self, piece: bytes) -> bool:
        assert not self.must_wait, "nothing is written before there is room"
        assert self.messages, "the head comes first"
        assert piece
        self.written += 1
        self.body += piece
        self.must_wait = self._reads_slowly
        return not self.must_wait


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        made = World(stack)
        await made.start(IngressSettings())
        yield made


def events(count: int) -> list[bytes]:
    return [b'data: {"choices":[{"index":0,"delta":{"content":"%d"}}]}\n\n' % number for number in range(count)]


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


async def ask(world: World, answer: bytes, caller: Caller) -> Caller:
    async with RawServer(answer) as engine:
        world.show(views.snapshot(views.model("m")), m=ready(engine.url))
        await world.app(caller.scope, caller.receive, caller.send)
    return caller


@pytest.mark.parametrize("reads_slowly", [False, True])
async def test_a_stream_is_written_as_it_comes_with_its_end_as_a_message(world: World, reads_slowly: bool) -> None:
    pieces = [piece * 200 for piece in events(100)]
    caller = await ask(world, EVENTS + chunked(*pieces, b""), Caller(reads_slowly=reads_slowly))
    assert caller.body == b"".join(pieces)
    assert caller.written > 1
    assert caller.messages[0]["status"] == 200
    assert caller.messages[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert len(caller.messages) == 2 if not reads_slowly else len(caller.messages) > 2


async def test_a_stream_that_breaks_off_ends_with_an_error_event(world: World) -> None:
    caller = await ask(world, EVENTS + chunked(*events(3)), Caller())
    begin, _, error = bytes(caller.body).partition(b"\n\n\n\n")
    assert begin + b"\n\n" == b"".join(events(3))
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "engine_disconnected"


async def test_an_empty_answer_is_not_written(world: World) -> None:
    caller = await ask(world, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Caller())
    assert (caller.written, len(caller.messages)) == (0, 2)


async def test_a_fault_of_the_caller_s_side_is_not_taken_for_the_engine_s(world: World) -> None:
    class Failing(Caller):
        def write(self, piece: bytes) -> bool:
            if self.body:
                raise RuntimeError("longer than declared")
            return super().write(piece)

    answer = EVENTS + chunked(*[piece * 4000 for piece in events(20)])
    with pytest.raises(RuntimeError, match="longer than declared"):
        await ask(world, answer, Failing())
    await until(lambda: not world.app._inference._upstream._pool._open)


async def test_a_caller_that_leaves_ends_the_stream_at_the_engine(world: World) -> None:
    left = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(EVENTS)
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(chunked(*events(10)))
                await writer.drain()
                await asyncio.sleep(0.001)
        left.set()
        writer.close()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    world.show(views.snapshot(views.model("m")), m=ready(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    caller = Caller()
    asking = asyncio.create_task(world.app(caller.scope, caller.receive, caller.send))
    await until(lambda: caller.written > 5)
    caller.left.set()
    async with asyncio.timeout(5):
        await asking
        await left.wait()
    server.close()


async def test_tokens_are_counted_and_what_was_not_asked_for_is_taken_out(world: World) -> None:
    caller = Caller(key=KEY)  # it has asked for no usage
    answer = EVENTS + chunked(*events(3), USAGE, b"data: [DONE]\n\n", b"")
    async with RawServer(answer) as engine:
        key = views.api_key("k", KEY, tokensPerMinute=1000)
        world.show(views.snapshot(views.model("m"), key), m=ready(engine.url))
        await world.app(caller.scope, caller.receive, caller.send)
    assert caller.body == b"".join(events(3)) + b"data: [DONE]\n\n"
    assert world.app.key_access.used()["uid-k"][1] == 7


async def test_a_caller_that_stops_reading_stops_its_engine_and_nobody_else(world: World) -> None:
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"}")
        writer.write(EVENTS)
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(chunked(b"x" * 50_000))
                sent += 50_000
                await writer.drain()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    _, other_url = await world.engine()
    catalog = views.snapshot(views.model("m"), views.model("other"))
    world.show(catalog, m=ready(url), other=ready(other_url))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]), limit=1000)
    body = b'{"model":"m","stream":true}'
    writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body))
    before = -1
    async with asyncio.timeout(20):
        while before != sent or not sent:  # until all sockets between them are full
            before = sent
            await asyncio.sleep(0.2)
    [connection] = world.app._inference._upstream._pool._open
    assert connection._held_bytes <= 320 * 1024
    assert connection._reading_paused
    assert (await world.post(PATH, {"model": "other"})).status == 200
    while sent == before:  # it goes on where it stopped
        assert await asyncio.wait_for(reader.read(100_000), 5)
    writer.close()
    await until(lambda: world.app.applications_in_use() == {})
    server.close()
