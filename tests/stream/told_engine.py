"""An engine that answers as it is told, byte by byte, and a client of the ingress that asks it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Awaitable, Callable

from dataplane.ingress.engine_trust import EngineTrust
from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.upstream.answer import Answer
from dataplane.ingress.upstream.client import Upstream
from dataplane.ingress.upstream.connection import Connection
from dataplane.openai.tls import ServerTls
from dataplane.snapshot.activation import Endpoint
from tests.certificates import Authority

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LARGE = os.urandom(1 << 20) * 32
Answers = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Engine:
    """A server that answers as it is told. It reads whole requests, if `reads_body`."""

    def __init__(self, answer: Answers | bytes = OK, *, reads_body: bool = True) -> None:
        self.answer = answer
        self.bodies: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        """Of each connection, in the order in which they were opened."""
        self.connections_of_requests: list[int] = []
        self._reads_body = reads_body
        self._tasks: list[asyncio.Task[object]] = []

    async def serve(self, stack: contextlib.AsyncExitStack, tls: Authority | None = None) -> Endpoint:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=_context(tls))
        stack.callback(server.close)
        stack.push_async_callback(self._stop)
        port = server.sockets[0].getsockname()[1]
        return Endpoint(replica_id="r1", url=f"{'http' if tls is None else 'https'}://127.0.0.1:{port}")

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks or [asyncio.ensure_future(asyncio.sleep(0))])
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        number = len(self.writers)
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.connections_of_requests.append(number)
                self.bodies.append(await reader.readexactly(length) if self._reads_body else b"")
                if isinstance(self.answer, bytes):
                    writer.write(self.answer)
                else:
                    await self.answer(reader, writer)
        writer.close()


def _context(tls: Authority | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    files = tls.issue()
    return ServerTls(files.cert, files.key).context


def client(stack: contextlib.AsyncExitStack, trust: EngineTrust | None = None, **settings: float) -> Upstream:
    made = Upstream(IngressSettings(**settings), trust)  # type: ignore[arg-type]  # durations
    stack.push_async_callback(made.aclose)
    return made


async def start(upstream: Upstream, endpoint: Endpoint, body: bytes = b"{}") -> Answer:
    return await upstream.start(endpoint, "/v1/completions", b"", b"", body)


async def ask(upstream: Upstream, endpoint: Endpoint, body: bytes = b"{}") -> bytes:
    """The whole body of an answer."""
    answer = await start(upstream, endpoint, body)
    try:
        got = answer.first
        while piece := await answer.more():
            got += piece
        return got
    finally:
        answer.close()


def open_connections(upstream: Upstream) -> set[Connection]:
    return upstream._pool._open
