"""Apps that use what the HTTP protocol offers beside ASGI, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from dataplane.openai.asgi import ON_DISCONNECT, WHOLE_BODY, WRITE_NOW, Receive, Scope, Send
from dataplane.openai.http_limits import HttpLimits
from dataplane.openai.http_protocol import protocol_class
from tests.stream.http_connections import Connection
from tests.stream.ingress_world import AsgiApp, serving, until

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
START = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body", "body": b"", "more_body": False}
PIECE = b"0123456789abcdef" * 1024
PIECES = 4096
"""64 MiB: more than the kernel takes."""

Open = Callable[[AsgiApp], AbstractAsyncContextManager[Connection]]


@pytest.fixture
def connected() -> Open:
    @contextlib.asynccontextmanager
    async def opened(app: AsgiApp) -> AsyncIterator[Connection]:
        protocol = protocol_class(HttpLimits(), count_refusal=lambda code: None)
        async with serving(app, protocol) as url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            try:
                yield Connection(reader, writer)
            finally:
                writer.close()

    return opened


async def test_a_slow_reader_holds_up_who_writes_and_gets_every_byte(connected: Open) -> None:
    written = 0

    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal written
        write = scope["extensions"][WRITE_NOW]
        await send({**START, "headers": [(b"content-length", b"%d" % (PIECES * len(PIECE)))]})
        for _ in range(PIECES):
            written += 1
            if not write(PIECE):
                await send({**END, "more_body": True})
        await send(END)

    async with connected(flood) as connection:
        await connection.send(HEAD + b"\r\n")
        seen = -1
        while written != seen:
            seen = written
            await asyncio.sleep(0.2)
        assert 0 < written < PIECES / 2
        await connection.reader.readuntil(b"\r\n\r\n")
        for _ in range(PIECES):
            assert await connection.reader.readexactly(len(PIECE)) == PIECE
        assert written == PIECES


async def test_a_client_that_leaves_is_reported_without_a_message(connected: Open) -> None:
    left = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][ON_DISCONNECT](left.set)
        await left.wait()

    async with connected(wait) as connection:
        await connection.send(HEAD + b"\r\n")
        await asyncio.sleep(0.05)
        assert not left.is_set()
        connection.writer.close()
        async with asyncio.timeout(2):
            await left.wait()


@pytest.mark.parametrize(
    ("sent", "whole"),
    [
        ([HEAD + b"content-length: 3\r\n\r\none"], b"one"),
        ([HEAD + b"\r\n"], b""),
        ([HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"], b"onetwo"),
        ([HEAD + b"content-length: 3\r\n\r\non", b"e"], None),
        ([HEAD + b"content-length: 3\r\n\r\n", b"one"], None),
        ([HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n", b"0\r\n\r\n"], None),
    ],
)
async def test_only_a_body_that_came_with_its_head_is_whole(
    connected: Open, sent: list[bytes], whole: bytes | None
) -> None:
    got: list[bytes | None] = []

    async def take(scope: Scope, receive: Receive, send: Send) -> None:
        got.append(scope["extensions"][WHOLE_BODY]())
        body, more = got[0] or b"", got[0] is None
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        await send(START)
        await send({**END, "body": body})

    async with connected(take) as connection:
        for number, piece in enumerate(sent):
            if number:
                await until(lambda: bool(got))
            await connection.send(piece)
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.reader.readuntil(b"0\r\n\r\n")
    assert got == [whole]


async def test_pieces_of_pipelined_answers_come_in_order(connected: Open) -> None:
    async def name(scope: Scope, receive: Receive, send: Send) -> None:
        write = scope["extensions"][WRITE_NOW]
        await send(START)
        for _ in range(3):
            write(scope["raw_path"])
            await asyncio.sleep(0)
        await send(END)

    async with connected(name) as connection:
        await connection.send(b"".join(b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % number for number in range(5)))
        for number in range(5):
            async with asyncio.timeout(2):
                head = await connection.reader.readuntil(b"\r\n\r\n")
                body = await connection.reader.readuntil(b"0\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert body == b"2\r\n/%d\r\n" % number * 3 + b"0\r\n\r\n"
