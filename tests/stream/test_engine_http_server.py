"""What anybody can send to an engine's port, without its secret."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from dataplane.engine.http_server import serve_http
from dataplane.openai.asgi import Receive, Scope, Send, send_whole
from dataplane.openai.listening import listener_on

GET = b"GET / HTTP/1.1\r\nhost: x\r\n"


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send_whole(send, 200, [], b"ok")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    server, url, serving = await serve_http(answer, "127.0.0.1")
    yield int(url.rpartition(":")[2])
    server.should_exit = True
    await serving


async def sent(port: int, data: bytes) -> bytes:
    """What the engine answers until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        GET + b"x-name: " + b"a" * 3_000_000,
        GET + b"a:\r\n" * 300,
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        GET * 1000,
    ],
    ids=["endless header", "many headers", "long URL", "head in a head"],
)
async def test_a_head_over_the_limits_is_refused(port: int, head: bytes) -> None:
    assert (await sent(port, head)).startswith(b"HTTP/1.1 4")


async def test_a_usual_request_is_answered(port: int) -> None:
    assert (await sent(port, GET + b"connection: close\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_reads_nothing_is_given_up_in_time() -> None:
    with listener_on("127.0.0.1", 0, write_timeout_s=0.3) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            accepted.setblocking(False)
            with pytest.raises(TimeoutError, match="timed out"):
                await fill(accepted)


async def fill(connection: socket.socket) -> None:
    """Send until the kernel gives up."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(BlockingIOError):
                connection.send(b"a" * 65536)
            await asyncio.sleep(0.02)
