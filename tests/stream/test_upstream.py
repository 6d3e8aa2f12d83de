"""Connections to engines over real sockets: kept, closed, slow, and of engines that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dataplane.ingress.engine_trust import EngineTrust
from dataplane.ingress.upstream.failures import UpstreamFailed, UpstreamSilent
from dataplane.openai.errors import AdapterFailed
from dataplane.snapshot.activation import Endpoint
from tests.certificates import Authority
from tests.stream.ingress_world import until, unused_url
from tests.stream.told_engine import EVENTS, LARGE, OK, Engine, ask, client, open_connections, start


@pytest.fixture
async def stack() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as made:
        yield made


# --- connections are kept -------------------------------------------------------------------------


async def test_the_connection_that_was_used_last_is_used_next(stack: contextlib.AsyncExitStack) -> None:
    engine = Engine()
    endpoint, upstream = await engine.serve(stack), client(stack)
    first, second = await start(upstream, endpoint), await start(upstream, endpoint)
    second.close()
    first.close()
    for _ in range(3):
        assert await ask(upstream, endpoint) == b"{}"
    assert engine.connections_of_requests == [0, 1, 0, 0, 0]


async def test_an_idle_connection_is_closed_after_its_time(stack: contextlib.AsyncExitStack) -> None:
    engine = Engine()
    endpoint, upstream = await engine.serve(stack), client(stack, upstream_keepalive_s=0.2)
    await ask(upstream, endpoint)
    await until(lambda: not open_connections(upstream))
    assert upstream._pool._idle == {}, "an endpoint that is gone leaves nothing"
    assert upstream._pool._timer is None
    await ask(upstream, endpoint)
    assert len(engine.writers) == 2


async def test_a_connection_that_was_idle_for_too_long_is_not_used(stack: contextlib.AsyncExitStack) -> None:
    engine = Engine()
    endpoint, upstream = await engine.serve(stack), client(stack)
    await ask(upstream, endpoint)
    [connection] = open_connections(upstream)
    assert connection.idle_since is not None
    connection.idle_since -= 61  # and the check that would close it is late
    await ask(upstream, endpoint)
    assert engine.connections_of_requests == [0, 1]


async def test_a_connection_in_use_is_kept_beyond_the_time_of_idle_ones(stack: contextlib.AsyncExitStack) -> None:
    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(OK)

    engine = Engine(slowly)
    upstream = client(stack, upstream_keepalive_s=0.1)
    assert await ask(upstream, await engine.serve(stack)) == b"{}"


async def test_a_connection_that_the_engine_has_closed_is_not_used(stack: contextlib.AsyncExitStack) -> None:
    engine = Engine()
    endpoint, upstream = await engine.serve(stack), client(stack)
    for number in range(3):
        assert await ask(upstream, endpoint) == b"{}"
        engine.writers[number].close()
        await until(lambda: not open_connections(upstream))
    assert engine.connections_of_requests == [0, 1, 2]


@pytest.mark.parametrize("late", [b"x", OK, b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n"])
async def test_bytes_that_nobody_asked_for_answer_no_request(stack: contextlib.AsyncExitStack, late: bytes) -> None:
    engine = Engine()
    endpoint, upstream = await engine.serve(stack), client(stack)
    await ask(upstream, endpoint)
    engine.writers[0].write(late)
    await until(lambda: not open_connections(upstream))
    engine.answer = OK + late  # and now in the same read as the answer
    assert [await ask(upstream, endpoint) for _ in range(3)] == [b"{}"] * 3
    assert engine.connections_of_requests == [0, 1, 2, 3]


async def test_a_request_on_a_kept_connection_that_dies_counts_as_sent(stack: contextlib.AsyncExitStack) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    engine = Engine()
    endpoint, upstream = await engine.serve(stack), client(stack)
    await ask(upstream, endpoint)
    engine.answer = die
    with pytest.raises(UpstreamFailed) as caught:
        await ask(upstream, endpoint)
    assert not caught.value.refused
    assert len(engine.bodies) == 2, "it is not sent again behind the back of who counts the tries"


async def test_a_request_that_is_cancelled_ends_at_the_engine_too(stack: contextlib.AsyncExitStack) -> None:
    left = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""
        left.set()

    engine = Engine(wait)
    endpoint, upstream = await engine.serve(stack), client(stack)
    asking = asyncio.create_task(ask(upstream, endpoint))
    await until(lambda: len(engine.bodies) == 1)
    asking.cancel()
    async with asyncio.timeout(5):
        await left.wait()
    await until(lambda: not open_connections(upstream))


async def test_closing_closes_connections_in_use_and_idle_ones(stack: contextlib.AsyncExitStack) -> None:
    engine = Engine()
    endpoint, upstream = await engine.serve(stack), client(stack)
    idle, in_use = await start(upstream, endpoint), await start(upstream, endpoint)
    idle.close()
    await upstream.aclose()
    assert not open_connections(upstream)
    in_use.close()
    with pytest.raises(UpstreamFailed) as caught:
        await ask(upstream, endpoint)
    assert caught.value.refused


async def test_an_endpoint_that_does_not_answer_in_time_has_refused(stack: contextlib.AsyncExitStack) -> None:
    endpoint = await Engine().serve(stack)
    upstream = client(stack, connect_timeout_s=0.0)
    for unreachable in (endpoint, Endpoint(replica_id="r2", url=unused_url())):
        with pytest.raises(UpstreamFailed) as caught:
            await ask(upstream, unreachable)
        assert caught.value.refused
    assert not open_connections(upstream)


# --- answers --------------------------------------------------------------------------------------


async def test_an_answer_without_a_length_ends_with_its_connection(stack: contextlib.AsyncExitStack) -> None:
    async def until_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + LARGE[:300_000])
        await writer.drain()
        writer.close()

    upstream = client(stack)
    assert await ask(upstream, await Engine(until_close).serve(stack)) == LARGE[:300_000]
    await until(lambda: not open_connections(upstream))


async def test_an_answer_without_a_length_that_is_reset_is_not_whole(stack: contextlib.AsyncExitStack) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await asyncio.sleep(0.05)
        writer.transport.get_extra_info("socket").setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER, 0 s
        writer.transport.abort()

    with pytest.raises(UpstreamFailed, match="ConnectionResetError"):
        await ask(client(stack), await Engine(reset).serve(stack))


async def test_interim_answers_are_skipped_and_empty_ones_have_an_end(stack: contextlib.AsyncExitStack) -> None:
    engine = Engine(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK)
    endpoint, upstream = await engine.serve(stack), client(stack)
    assert await ask(upstream, endpoint) == b"{}"
    for empty in (b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n"):
        engine.answer = empty
        assert await ask(upstream, endpoint) == b""
    assert engine.connections_of_requests == [0, 0, 0]


async def test_the_body_of_a_refusal_is_not_waited_for(stack: contextlib.AsyncExitStack) -> None:
    for status, refused in ((b"401 Unauthorized", True), (b"421 Misdirected Request", True)):
        engine = Engine(b"HTTP/1.1 " + status + b"\r\ncontent-length: 5\r\n\r\n")
        with pytest.raises(UpstreamFailed) as caught:
            await asyncio.wait_for(ask(client(stack), await engine.serve(stack)), 5)
        assert caught.value.refused is refused


@pytest.mark.parametrize(
    "body", [b'{"error":{"message":"no such file"}}', b"x" * 100_000, b'{"error":1}', b"", b"\xff"]
)
async def test_the_error_of_an_adapter_is_read_in_bounds(stack: contextlib.AsyncExitStack, body: bytes) -> None:
    head = b"HTTP/1.1 503 Service Unavailable\r\nx-broadsheet-adapter-failed: 1\r\nretry-after: 7\r\n"
    engine = Engine(head + b"content-length: %d\r\n\r\n" % len(body) + body)
    with pytest.raises(AdapterFailed if body.startswith(b'{"error":{') else UpstreamFailed) as caught:
        await ask(client(stack), await engine.serve(stack))
    if isinstance(caught.value, AdapterFailed):
        assert caught.value.retry_after_s == 7
    else:
        assert isinstance(caught.value, UpstreamFailed)
        assert (str(caught.value), caught.value.refused) == ("an error that is none", True)


async def test_silence_before_and_within_an_answer_is_noticed(stack: contextlib.AsyncExitStack) -> None:
    upstream = client(stack, request_timeout_s=0.2)
    with pytest.raises(UpstreamSilent):
        await ask(upstream, await Engine(b"").serve(stack))
    answer = await start(upstream, await Engine(EVENTS + b"1\r\nx\r\n").serve(stack))
    assert answer.first == b"x"
    with pytest.raises(UpstreamSilent):
        await answer.more()
    answer.close()


# --- much, and slowly -----------------------------------------------------------------------------


async def test_a_reader_that_stops_slows_its_engine_down(stack: contextlib.AsyncExitStack) -> None:
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(EVENTS)
        while not writer.is_closing():
            piece = b"%d;" % sent * 2000
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            sent += 1
            await writer.drain()

    engine = Engine(endless)
    upstream = client(stack, request_timeout_s=0.3)
    answer = await start(upstream, await engine.serve(stack))
    [connection] = open_connections(upstream)
    before = -1
    async with asyncio.timeout(10):
        while before != sent:  # until the engine's socket is full
            before = sent
            await asyncio.sleep(0.2)
    assert connection._held_bytes <= 64 * 1024 + 256 * 1024
    await asyncio.sleep(0.5)  # the silence is the reader's
    got = bytearray(answer.first)
    while len(got) < 10_000_000:
        got += await answer.more()
        assert connection._held_bytes == 0
    expected, number = bytearray(), 0
    while len(expected) < len(got):
        expected += b"%d;" % number * 2000
        number += 1
    assert got == expected[: len(got)]
    answer.close()


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_large_body_waits_outside_of_the_transport(
    stack: contextlib.AsyncExitStack, tmp_path: Path, is_tls: bool
) -> None:
    may_read = asyncio.Event()

    async def read_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await may_read.wait()
        engine.bodies.append(await reader.readexactly(len(LARGE)))
        writer.write(OK)

    engine = Engine(read_late, reads_body=False)
    authority = Authority(tmp_path) if is_tls else None
    endpoint = await engine.serve(stack, authority)
    upstream = client(stack, EngineTrust(authority.file) if authority is not None else None)
    asking = asyncio.create_task(ask(upstream, endpoint, LARGE))
    await until(lambda: len(engine.bodies) == 1)
    [connection] = open_connections(upstream)
    await until(lambda: connection._writing_paused)
    await asyncio.sleep(0.1)
    assert connection._transport.get_write_buffer_size() <= (768 if is_tls else 320) * 1024
    may_read.set()
    assert await asyncio.wait_for(asking, 20) == b"{}"
    assert engine.bodies[1] == LARGE


@pytest.mark.parametrize("middle", [b"", b"x", LARGE[:300_000]])
async def test_a_body_in_parts_reaches_the_engine_as_one(stack: contextlib.AsyncExitStack, middle: bytes) -> None:
    engine = Engine()
    view = memoryview(LARGE)
    parts: list[bytes | memoryview] = [view[:40_000], middle, view[40_000:90_000]]
    answer = await client(stack).start(await engine.serve(stack), "/v1/completions", b"", b"", parts)
    answer.close()
    assert engine.bodies == [b"".join(parts)]


async def test_an_answer_before_the_end_of_a_large_body_counts(stack: contextlib.AsyncExitStack) -> None:
    too_large = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\n{}"

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(too_large)
        await asyncio.sleep(5)

    upstream = client(stack)
    answer = await asyncio.wait_for(start(upstream, await Engine(refuse, reads_body=False).serve(stack), LARGE), 5)
    assert (answer.status, answer.first) == (413, b"{}")
    [connection] = open_connections(upstream)
    assert connection._transport.get_write_buffer_size() <= 320 * 1024, "the rest is not sent"
    answer.close()
    await until(lambda: not open_connections(upstream))


async def test_an_engine_that_dies_within_a_large_body_has_had_the_request(stack: contextlib.AsyncExitStack) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1_000_000)
        writer.transport.abort()

    with pytest.raises(UpstreamFailed) as caught:
        await asyncio.wait_for(ask(client(stack), await Engine(die, reads_body=False).serve(stack), LARGE), 5)
    assert not caught.value.refused


# --- TLS ------------------------------------------------------------------------------------------


async def test_connections_that_replaced_authorities_verified_are_not_used_again(
    stack: contextlib.AsyncExitStack, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    engine, trust = Engine(), EngineTrust(authority.file)
    endpoint, upstream = await engine.serve(stack, authority), client(stack, trust)
    for _ in range(2):
        assert await ask(upstream, endpoint) == b"{}"
    assert engine.connections_of_requests == [0, 0]
    trust.context = EngineTrust(authority.file).context
    assert await ask(upstream, endpoint) == b"{}"
    assert engine.connections_of_requests == [0, 0, 1]
