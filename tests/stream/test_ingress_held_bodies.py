"""Bodies of requests in progress are bounded in bytes, and no caller takes all of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from dataplane.ingress.limits import IngressSettings
from dataplane.snapshot.activation import ModelActivation, State
from tests import views
from tests.stream.ingress_world import Answer, World, ready, until

CATALOG = views.snapshot(
    views.model("m"), *(views.api_key(name, f"bs-{name}") for name in ("alice", "bob", "carol", "dora"))
)
HELD_BYTES_MAX = 10_000
CHAT = "/v1/chat/completions"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings(max_held_body_bytes=HELD_BYTES_MAX))
        world.show(CATALOG, m=ModelActivation(state=State.DEPLOYING, revision_number=1))
        yield world


def body(size: int) -> bytes:
    made = json.dumps({"model": "m", "messages": []}).encode()
    return made + b" " * (size - len(made))


async def ask(world: World, caller: str, size: int) -> Answer:
    return await world.post(CHAT, raw=body(size), headers={"authorization": f"Bearer bs-{caller}"})


async def held_bytes(world: World) -> int:
    [line] = [line for line in (await world.get("/metrics")).body.splitlines() if b"_held_body_bytes{" in line]
    return int(float(line.rpartition(b" ")[2]))


async def test_bodies_beyond_the_bound_are_refused_to_whom_holds_too_many(world: World) -> None:
    waiting = [asyncio.create_task(ask(world, "alice", 4000))]
    await until(lambda: world.waiting() == 1)
    assert await held_bytes(world) == 4000
    refused = await ask(world, "alice", 2000)
    assert (refused.status, refused.code) == (429, "request_bodies_limited")
    assert (refused.headers["retry-after"], refused.headers["connection"]) == ("2", "close")
    waiting.append(asyncio.create_task(ask(world, "bob", 2000)))
    await until(lambda: world.waiting() == 2)
    full = await ask(world, "carol", 3000)
    assert (full.status, full.code, full.headers["retry-after"]) == (503, "request_bodies_full", "2")
    waiting.append(asyncio.create_task(ask(world, "dora", 500)))
    await until(lambda: world.waiting() == 3)
    _, url = await world.engine()
    world.show(CATALOG, m=ready(url))
    assert [answer.status for answer in await asyncio.gather(*waiting)] == [200, 200, 200]
    assert await held_bytes(world) == 0
    assert (await ask(world, "carol", 3000)).status == 200


async def exchange(world: World, sent: bytes) -> bytes:
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer bs-alice\r\n"


async def test_a_declared_length_beyond_the_bound_is_refused_before_it_is_sent(world: World) -> None:
    got = await exchange(world, HEAD + b"expect: 100-continue\r\ncontent-length: 5001\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 503 ")
    assert b"100 Continue" not in got
    assert await held_bytes(world) == 0


async def test_a_body_in_chunks_is_refused_as_soon_as_it_is_beyond_the_bound(world: World) -> None:
    chunk = b"400\r\n" + b"x" * 0x400 + b"\r\n"
    got = await exchange(world, HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk * 5)
    assert got.startswith(b"HTTP/1.1 429 ") or got.startswith(b"HTTP/1.1 503 ")
    assert b"request_bodies" in got
    assert await held_bytes(world) == 0


async def test_a_caller_that_leaves_gives_its_bytes_back(world: World) -> None:
    asked = asyncio.create_task(ask(world, "alice", 5000))
    await until(lambda: world.waiting() == 1)
    asked.cancel()
    await until(lambda: world.waiting() == 0)
    assert await held_bytes(world) == 0
