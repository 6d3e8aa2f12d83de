"""What a request to an engine, and each piece of its answer, cost in Python calls."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from types import FrameType

import pytest

from broadsheet.v1 import snapshot_pb2
from dataplane.ingress import upstream
from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.upstream.client import Upstream
from dataplane.ingress.upstream.headers import engine_headers
from dataplane.openai.asgi import Headers
from dataplane.snapshot.activation import Endpoint
from tests import views

PACKAGE = upstream.__path__[0]
HEADERS: Headers = [
    (b"host", b"127.0.0.1:8000"),
    (b"accept", b"application/json"),
    (b"content-type", b"application/json"),
    (b"authorization", b"Bearer x"),
    (b"connection", b"keep-alive"),
    (b"content-length", b"2"),
]
ANSWER = b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b"9\r\ndata: {}\n\r\n"


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts the calls of functions of the client. Each resumption of a coroutine is a call."""
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            counts[frame.f_code.co_qualname] += 1

    sys.setprofile(count)
    try:
        yield counts
    finally:
        sys.setprofile(None)


class Engine(asyncio.Protocol):
    """Answers each request, which comes in one read, with one write."""

    answer = ANSWER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.answer)  # type: ignore[attr-defined]  # it is no BaseTransport only


@pytest.mark.parametrize("adapter", [None, views.adapter("m", "a")])
async def test_a_request_costs_few_calls(adapter: snapshot_pb2.AdapterEntry | None) -> None:
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", 0)
    endpoint = Endpoint(replica_id="r", url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    client = Upstream(IngressSettings())

    async def ask() -> None:
        lines = engine_headers(HEADERS, request_id="id", secret="s", served_name="m", adapter=adapter)
        answer = await client.start(endpoint, "/v1/completions", b"", lines, b"{}")
        assert answer.headers()
        answer.close()

    await ask()
    with counted() as counts:
        for _ in range(10):
            await ask()
    await client.aclose()
    server.close()
    assert counts.total() / 10 <= 33, counts


async def test_a_piece_of_a_stream_costs_two_calls_and_nothing_else() -> None:
    engines: list[Engine] = []

    class Streaming(Engine):
        answer = EVENTS + EVENT

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            engines.append(self)

    server = await asyncio.get_running_loop().create_server(Streaming, "127.0.0.1", 0)
    endpoint = Endpoint(replica_id="r", url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    client = Upstream(IngressSettings())
    answer = await client.start(endpoint, "/v1/completions", b"", b"", b"{}")
    written = bytearray()
    came = asyncio.Event()

    def write(piece: bytes) -> bool:
        written.extend(piece)
        came.set()
        return True

    passing = asyncio.create_task(answer.pass_on(write))
    await asyncio.sleep(0)
    tasks = asyncio.all_tasks()
    with counted() as counts:
        for _ in range(100):
            came.clear()
            engines[0].transport.write(EVENT)  # type: ignore[attr-defined]  # it is no BaseTransport only
            await came.wait()
    assert counts == {"Connection.data_received": 100, "AnswerParser.feed": 100}
    assert asyncio.all_tasks() == tasks
    engines[0].transport.write(b"0\r\n\r\n")  # type: ignore[attr-defined]  # it is no BaseTransport only
    assert await passing
    assert written == b"data: {}\n" * 100
    answer.close()
    await client.aclose()
    server.close()
