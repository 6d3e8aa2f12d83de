"""Clients that leave, and what is left of a request when it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator

import pytest

from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.request_context import RequestContext
from dataplane.openai.asgi import Receive, Scope, Send
from dataplane.openai.exchange.cycle import Cycle
from tests import views
from tests.stream.http_connections import BODY, CHAT, HEALTH, Connections
from tests.stream.ingress_world import Recorder, World, ready, until

CATALOG = views.snapshot(views.model("m"))


class EndlessStream:
    """An engine's answer that goes on until its client leaves."""

    def __init__(self) -> None:
        self.begun = 0
        self.left = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.begun += 1
        leaving = asyncio.ensure_future(receive())
        while not leaving.done():
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
            await asyncio.sleep(0.005)
        self.left += 1


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings())
        yield world


# With a request behind it the connection is not read: that the client has left shows when something
# is written to it.
@pytest.mark.parametrize(
    "behind",
    [b"", HEALTH, CHAT + b"\r\n" + BODY, (CHAT + b"\r\n" + BODY) * 5],
    ids=["nothing", "another path", "one request", "five requests"],
)
async def test_a_client_that_leaves_ends_its_request_whatever_waits_behind_it(world: World, behind: bytes) -> None:
    stream = EndlessStream()
    engine = Recorder(stream)
    world.show(CATALOG, m=ready(await world.serve(engine)))
    async with contextlib.AsyncExitStack() as stack:
        connection = await Connections(world, stack).open()
        await connection.send(CHAT + b"\r\n" + BODY + behind)
        await until(lambda: stream.begun == 1)
        assert world.app.applications_in_use() == {"app-1": 1}
    await until(lambda: stream.left == 1)
    await until(lambda: not world.app.applications_in_use())
    assert len(engine.requests) == 1  # nothing behind it was begun
    assert (await world.get("/metrics")).body.count(b'status="499"') == 1


async def test_a_client_that_leaves_before_its_body_has_come_ends_its_request(world: World) -> None:
    world.show(CATALOG)
    async with contextlib.AsyncExitStack() as stack:
        connection = await Connections(world, stack).open()
        await connection.send(CHAT + b"\r\n" + BODY[:5])
        await asyncio.sleep(0.05)
    body = b""
    async with asyncio.timeout(5):
        while b'status="499"' not in body:
            body = (await world.get("/metrics")).body


def alive() -> int:
    # By type: `isinstance` would ask proxies of other libraries for their class.
    return sum(type(one) in (RequestContext, Cycle) for one in gc.get_objects())


async def test_a_request_leaves_nothing_for_the_garbage_collector(world: World) -> None:
    world.show(CATALOG, m=ready(await world.serve(Recorder())))
    async with contextlib.AsyncExitStack() as stack:
        connection = await Connections(world, stack).open()
        gc.collect()
        gc.disable()
        before = alive()
        try:
            for _ in range(20):
                await connection.send(CHAT + b"\r\n" + BODY)
                assert await connection.answer() == (200, b'{"ok":true}')
            await asyncio.sleep(0)
            assert alive() <= before
        finally:
            gc.enable()
