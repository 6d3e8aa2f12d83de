"""An idle connection keeps nothing of the requests that it has had."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from dataplane.ingress.limits import IngressSettings
from tests.stream.http_connections import HEALTH, Connection, Connections
from tests.stream.ingress_world import World

CONNECTIONS = 20
HEADERS = 48
KEPT_BYTES_MAX = 16 * 1024
"""Of a connection, both of its ends: they are in this process."""
FIELDS = b"".join(b"x-%02d: %b\r\n" % (number, b"v" * 1024) for number in range(HEADERS))


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings())
        yield Connections(world, stack)


async def ask(connection: Connection) -> None:
    await connection.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + FIELDS + b"\r\n")
    assert (await connection.answer())[0] == 200


async def ask_and_send_the_body_after_the_answer(connection: Connection) -> None:
    await connection.send(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n" + FIELDS + b"\r\n")
    assert (await connection.answer())[0] == 404
    await connection.send(b"x")


async def ask_twice_at_once(connection: Connection) -> None:
    head = b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + FIELDS[: len(FIELDS) // 2] + b"\r\n"
    await connection.send(head * 2)
    assert (await connection.answer())[0] == 200
    assert (await connection.answer())[0] == 200


@pytest.mark.parametrize("use", [ask, ask_and_send_the_body_after_the_answer, ask_twice_at_once])
async def test_a_connection_that_waits_keeps_no_head(
    connections: Connections, use: Callable[[Connection], Awaitable[None]]
) -> None:
    await use(await connections.open())  # caches
    gc.collect()
    tracemalloc.start()
    try:
        opened = [await connections.open() for _ in range(CONNECTIONS)]
        for one in opened:
            await use(one)
        await asyncio.sleep(0.05)
        gc.collect()
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes / CONNECTIONS < KEPT_BYTES_MAX
    for one in opened:  # they are still of use
        await one.send(HEALTH)
        assert (await one.answer())[0] == 200


@pytest.mark.parametrize("half", [1, 20, len(HEALTH) - 2])
async def test_a_head_that_began_before_the_last_answer_is_read_to_its_end(connections: Connections, half: int) -> None:
    connection = await connections.open()
    await connection.send(HEALTH + HEALTH[:half])
    assert (await connection.answer())[0] == 200
    await asyncio.sleep(0.01)
    await connection.send(HEALTH[half:])
    assert (await connection.answer())[0] == 200


async def test_an_upgrade_after_an_answered_request_is_answered(connections: Connections) -> None:
    connection = await connections.open()
    for _ in range(2):
        await connection.send(HEALTH)
        assert (await connection.answer())[0] == 200
        await connection.send(HEALTH.replace(b"host: x", b"host: x\r\nconnection: upgrade\r\nupgrade: h2c"))
        assert (await connection.answer())[0] == 200
