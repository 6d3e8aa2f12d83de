"""What callers send that is no whole request, or asks for another protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import pytest

from dataplane.ingress.limits import IngressSettings
from dataplane.openai.asgi import Receive, Scope, Send
from tests import views
from tests.stream.http_connections import BODY, CHAT, HEALTH, Connections
from tests.stream.ingress_world import Recorder, World, ready

CATALOG = views.snapshot(views.model("m"))
LIMITS = IngressSettings(
    max_header_bytes=64 * 1024,
    max_url_bytes=8 * 1024,
    head_read_timeout_s=0.3,
    max_connections=40,
    max_connections_per_address=20,
)
H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(LIMITS)
        yield world


@pytest.fixture
async def connections(world: World) -> AsyncIterator[Connections]:
    async with contextlib.AsyncExitStack() as stack:
        yield Connections(world, stack)


# --- bounds before a key is checked ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "endless"),
    [
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\n", (b"x-name: " + b"a" * 900 + b"\r\n") * 10),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-name: ", b"a" * 9000),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\n", b"a" * 9000),
        (b"GET /", b"a" * 9000),
        (b"", b"\r\n" * 4500),
    ],
    ids=["headers", "header value", "header name", "URL", "blank lines"],
)
async def test_a_head_without_end_is_refused_at_the_limit(
    connections: Connections, start: bytes, endless: bytes
) -> None:
    connection = await connections.open()
    await connection.send(start)
    for _ in range(10):  # 90 KB
        await connection.send(endless)
        await asyncio.sleep(0.005)  # so that the server has read it
    got = await connection.read_to_end()
    assert got.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"headers_too_large"' in got


async def test_trailers_without_end_close_the_connection(connections: Connections, world: World) -> None:
    world.show(CATALOG)
    connection = await connections.open()
    await connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    await connection.send(b"2\r\n{}\r\n0\r\n")
    for _ in range(10):
        await connection.send(b"x-name: value\r\n" * 600)
        await asyncio.sleep(0.005)
    await connection.read_to_end(timeout_s=2)
    assert connection.reader.at_eof() or connection.reader.exception() is not None


@pytest.mark.parametrize("bytes_", [9_000, 40_000, 60_000])
async def test_a_url_over_the_limit_is_refused(connections: Connections, bytes_: int) -> None:
    connection = await connections.open()
    await connection.send(b"GET /v1/models/" + b"a" * bytes_ + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await connection.answer())[0] == 414


@pytest.mark.parametrize(
    ("sent", "status"), [(b"", b""), (b"GET /healthz HTTP/1.1\r\nhost: ", b"HTTP/1.1 408 ")], ids=["nothing", "half"]
)
async def test_a_connection_without_a_whole_head_is_closed_in_time(
    connections: Connections, sent: bytes, status: bytes
) -> None:
    connection = await connections.open()
    await connection.send(sent)
    started = time.monotonic()
    got = await connection.read_to_end()
    assert got.startswith(status)
    assert bool(got) == bool(status)
    assert 0.2 < time.monotonic() - started < 3


@pytest.mark.parametrize("drip", [b"\r\n", b"GET /healthz HTTP/1.1\r\nhost: x"], ids=["blank lines", "half a head"])
async def test_a_kept_connection_that_sends_no_whole_head_is_closed_in_time(
    connections: Connections, drip: bytes
) -> None:
    connection = await connections.open()
    await connection.send(HEALTH)
    assert (await connection.answer())[0] == 200
    await connection.send(drip)
    assert (await connection.read_to_end(timeout_s=3)).startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_goes_on_after_its_answer_does_not_keep_the_connection(connections: Connections) -> None:
    connection = await connections.open()
    await connection.send(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
    assert (await connection.answer())[0] == 404
    async with asyncio.timeout(5):
        while not connection.reader.at_eof():
            await connection.send(b"x")
            with contextlib.suppress(TimeoutError, ConnectionError):
                await asyncio.wait_for(connection.reader.read(1), 0.05)


async def test_a_kept_connection_may_wait_longer_than_a_head_may_take(connections: Connections) -> None:
    connection = await connections.open()
    for _ in range(2):
        await connection.send(HEALTH)
        assert (await connection.answer())[0] == 200
        await asyncio.sleep(2 * LIMITS.head_read_timeout_s)
    await connection.send(HEALTH[:30])
    await asyncio.sleep(LIMITS.head_read_timeout_s / 3)
    await connection.send(HEALTH[30:])
    assert (await connection.answer())[0] == 200


async def test_an_invalid_request_gets_an_openai_error(connections: Connections) -> None:
    connection = await connections.open()
    await connection.send(b"\x16\x03\x01\x02\x00\x01")  # a TLS handshake
    status, body = await connection.answer()
    assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_http")
    await connection.read_to_end()
    metrics = await connections.open()
    await metrics.send(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b'"invalid_http"' in (await metrics.answer())[1]


async def test_an_invalid_request_does_not_write_into_the_answer_before_it(
    connections: Connections, world: World
) -> None:
    held = asyncio.Event()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await held.wait()

    world.show(CATALOG, m=ready(await world.serve(Recorder(stream))))
    connection = await connections.open()
    await connection.send(CHAT + b"\r\n" + BODY)
    async with asyncio.timeout(5):
        assert b"data: 1" in await connection.reader.readuntil(b"data: 1\n\n")
    await connection.send(b"not HTTP\r\n\r\n")
    assert b"HTTP/1.1" not in await connection.read_to_end()
    held.set()


async def test_connections_of_one_address_are_bounded(connections: Connections) -> None:
    opened = [await connections.open() for _ in range(LIMITS.max_connections_per_address)]
    for connection in opened:
        await connection.send(HEALTH)
        assert (await connection.answer())[0] == 200
    refused = await connections.open()
    status, body = await refused.answer()
    assert (status, json.loads(body)["error"]["code"]) == (503, "too_many_connections")
    assert await refused.read_to_end() == b""
    opened[0].writer.close()
    await opened[0].writer.wait_closed()
    await asyncio.sleep(0.05)
    later = await connections.open()
    await later.send(HEALTH)
    assert (await later.answer())[0] == 200


async def test_connections_of_all_addresses_are_bounded() -> None:
    limits = IngressSettings(max_connections=3)
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(limits)
        connections = Connections(world, stack)
        for _ in range(limits.max_connections):
            await (await connections.open()).send(HEALTH)
        assert (await (await connections.open()).answer())[0] == 503


# --- other protocols ------------------------------------------------------------------------------


async def test_a_request_that_offers_h2c_is_answered_over_http_1(connections: Connections, world: World) -> None:
    engine = Recorder()
    world.show(CATALOG, m=ready(await world.serve(engine)))
    connection = await connections.open()
    for pieces in ((CHAT + H2C + b"\r\n" + BODY,), (CHAT + H2C + b"\r\n", BODY), (CHAT + H2C, b"\r\n", BODY)):
        for piece in pieces:
            await connection.send(piece)
            await asyncio.sleep(0.02)
        assert await connection.answer() == (200, b'{"ok":true}')
    assert [json.loads(request.body)["model"] for request in engine.requests] == ["m"] * 3
    assert engine.requests[0].header(b"upgrade") is engine.requests[0].header(b"http2-settings") is None


async def test_pipelined_requests_that_offer_h2c_are_answered_in_order(connections: Connections, world: World) -> None:
    world.show(CATALOG, m=ready(await world.serve(Recorder())))
    connection = await connections.open()
    await connection.send((CHAT + H2C + b"\r\n" + BODY + HEALTH) * 2)
    assert [(await connection.answer())[1] for _ in range(4)] == [b'{"ok":true}', b'{"status":"ok"}'] * 2


async def test_connect_is_refused(connections: Connections) -> None:
    for target in (b"example.com:443", b"/v1/models"):
        connection = await connections.open()
        await connection.send(b"CONNECT " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await connection.answer())[0] == 400


async def test_an_answer_to_http_1_0_has_no_chunks(connections: Connections, world: World) -> None:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one ", b"two ", b"three"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    world.show(CATALOG, m=ready(await world.serve(Recorder(stream))))
    connection = await connections.open()
    await connection.send(CHAT.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n" + BODY)
    head, _, body = (await connection.read_to_end()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == b"one two three"


async def test_a_websocket_handshake_is_told_to_post(connections: Connections) -> None:
    connection = await connections.open()
    await connection.send(
        b"GET /v1/responses HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    status, body = await connection.answer()
    assert (status, json.loads(body)["error"]["code"]) == (400, "websockets_unsupported")
    assert b"POST" in body


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/", "/v1/models"),
        ("/v1", "/v1/models"),
        ("/v1/models/", "slash"),
        ("/health", "/healthz"),
        ("/ping/", "/healthz"),
    ],
)
async def test_a_usual_path_is_answered_with_the_right_one(world: World, path: str, word: str) -> None:
    answer = await world.get(path)
    assert (answer.status, answer.code) == (404, "unknown_url")
    assert word in json.loads(answer.body)["error"]["message"].split("GET", 1)[1].partition(". ")[2]
