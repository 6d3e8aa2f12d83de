"""What connections hold together before a key is checked, and after the answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from dataplane.ingress.limits import IngressSettings
from dataplane.openai.asgi import Receive, Scope, Send
from tests import views
from tests.stream.http_connections import BODY, CHAT, HEALTH, Connections
from tests.stream.ingress_world import Recorder, World, ready

CATALOG = views.snapshot(views.model("m"))


@contextlib.asynccontextmanager
async def serving_with(limits: IngressSettings) -> AsyncIterator[tuple[World, Connections]]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(limits)
        yield world, Connections(world, stack)


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    async with serving_with(IngressSettings()) as (_, made):
        yield made


@pytest.mark.parametrize(
    ("limits", "sources"),
    [
        (IngressSettings(max_unfinished_bytes_per_address=100_000), ["127.0.0.1"] * 3),
        (IngressSettings(max_unfinished_bytes=100_000), ["127.0.0.2", "127.0.0.3", "127.0.0.4"]),
    ],
    ids=["of one address", "of all"],
)
async def test_the_oldest_unfinished_head_goes_when_all_together_are_too_large(
    limits: IngressSettings, sources: list[str]
) -> None:
    async with serving_with(limits) as (_, connections):
        opened = []
        for source in sources:
            opened.append(await connections.open(source))
            await opened[-1].send(HEALTH[:-2] + b"x-name: " + b"a" * 40_000)
            await asyncio.sleep(0.05)
        status, body = await opened[0].answer()
        assert (status, json.loads(body)["error"]["code"]) == (503, "too_many_unfinished_requests")
        for connection in opened[1:]:
            await connection.send(b"\r\n\r\n")
            assert (await connection.answer())[0] == 200
        later = await connections.open(sources[0])
        await later.send(HEALTH)
        assert (await later.answer())[0] == 200


async def test_a_body_that_arrives_in_pieces_is_no_unfinished_head() -> None:
    async with serving_with(IngressSettings(max_unfinished_bytes_per_address=60_000)) as (world, connections):
        world.show(CATALOG, m=ready(await world.serve(Recorder())))
        slow = await connections.open()
        chunked = CHAT.replace(b"content-length: 13", b"transfer-encoding: chunked") + b"\r\n"
        for piece in (chunked + b"1\r\n{\r\n", b"c", b"\r\n" + BODY[1:] + b"\r\n"):
            await slow.send(piece)
            await asyncio.sleep(0.05)
        for _ in range(2):
            await (await connections.open()).send(HEALTH[:-2] + b"x-name: " + b"a" * 40_000)
            await asyncio.sleep(0.05)
        await slow.send(b"0\r\n\r\n")
        assert (await slow.answer())[0] == 200


@pytest.mark.parametrize("end", [b"\r\n", b""], ids=["complete", "unfinished"])
async def test_too_many_headers_are_refused_however_short_they_are(connections: Connections, end: bytes) -> None:
    connection = await connections.open()
    await connection.send(HEALTH[:-2] + b"a:\r\n" * (IngressSettings().max_header_fields + 1) + end)
    got = await connection.read_to_end()
    assert got.startswith(b"HTTP/1.1 431 ")
    assert b"than the 128 that are allowed" in got


async def test_a_connection_with_too_many_pipelined_requests_is_closed(connections: Connections) -> None:
    connection = await connections.open()
    await connection.send(HEALTH * IngressSettings().max_pipelined_requests)
    for _ in range(IngressSettings().max_pipelined_requests):
        assert (await connection.answer())[0] == 200
    await connection.send(HEALTH * 1000)
    assert (await connection.read_to_end()).count(b"HTTP/1.1 ") <= IngressSettings().max_pipelined_requests


async def test_pipelined_requests_count_as_unfinished() -> None:
    async with serving_with(IngressSettings(max_unfinished_bytes_per_address=60_000)) as (world, connections):
        held = asyncio.Event()

        async def hang(scope: Scope, receive: Receive, send: Send) -> None:
            await held.wait()

        world.show(CATALOG, m=ready(await world.serve(Recorder(hang))))
        first, second = await connections.open(), await connections.open()
        waiting = CHAT.replace(b"content-length: 13", b"content-length: 40000") + b"\r\n" + b" " * 39_987 + BODY
        for connection in (first, second):
            for piece in (CHAT + b"\r\n" + BODY, waiting):
                await connection.send(piece)
                await asyncio.sleep(0.05)
        assert await first.read_to_end(timeout_s=1) == b""
        assert first.reader.at_eof() or first.reader.exception() is not None
        assert not second.reader.at_eof()
        held.set()


async def test_the_client_that_has_not_read_for_longest_goes_when_all_hold_too_much() -> None:
    async with serving_with(IngressSettings(max_unread_bytes_per_address=200_000)) as (world, connections):
        pieces = 128  # 8 MiB, more than the kernel takes
        begun = 0  # pieces of all answers

        async def until_nothing_moves(since: int) -> None:
            before, quiet = begun, 0
            while quiet < 6 or begun == since:
                await asyncio.sleep(0.1)
                before, quiet = begun, quiet + 1 if begun == before else 0

        async def flood(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            nonlocal begun
            for _ in range(pieces):
                begun += 1
                await send({"type": "http.response.body", "body": b"a" * 65536, "more_body": True})

        world.show(CATALOG, m=ready(await world.serve(Recorder(flood))))
        opened = []
        for _ in range(3):
            before = begun
            opened.append(await connections.open())
            await opened[-1].send(CHAT + b"connection: close\r\n\r\n" + BODY)
            await until_nothing_moves(before)
        lost = [len(await connection.read_to_end(timeout_s=20)) < pieces * 65536 for connection in opened]
        assert lost[0]
        assert not lost[-1]
