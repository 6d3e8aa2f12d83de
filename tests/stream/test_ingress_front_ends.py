"""The ingress before a replica with several front ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from dataplane.ingress.limits import IngressSettings
from dataplane.snapshot.activation import Endpoint, ModelActivation
from tests import views
from tests.stream.ingress_world import World, ready, unused_url
from tests.stream.raw_server import RawServer

CATALOG = views.snapshot(views.model("m"))
PROMPT = {"model": "m", "prompt": "x"}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings())
        yield world


def replica(*urls: str) -> ModelActivation:
    """A READY model with one replica that has these front ends."""
    return replace(ready(), endpoints=(Endpoint(replica_id="r", url=urls[0], further_urls=urls[1:]),))


async def test_requests_are_spread_evenly(world: World) -> None:
    engines = [await world.engine(time_to_first_token_s=0.3) for _ in range(4)]
    world.show(CATALOG, m=replica(*(url for _, url in engines)))
    answers = await asyncio.gather(*(world.post("/v1/completions", PROMPT) for _ in range(20)))
    assert [answer.status for answer in answers] == [200] * 20
    assert [engine.counters.requests for engine, _ in engines] == [5] * 4


async def test_a_request_goes_on_to_another_front_end_when_one_is_gone(world: World) -> None:
    _, url = await world.engine()
    world.show(CATALOG, m=replica(unused_url(), url, unused_url()))
    for _ in range(10):
        answer = await world.post("/v1/completions", PROMPT)
        assert (answer.status, json.loads(answer.body)["model"]) == (200, "m")


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"])
async def test_after_a_crash_before_the_first_byte_another_front_end_is_asked(world: World, before: bytes) -> None:
    _, url = await world.engine()
    async with RawServer(*[before] * 20) as dying:
        world.show(CATALOG, m=replica(dying.url, url))
        for _ in range(20):
            assert (await world.post("/v1/completions", PROMPT)).status == 200
        assert dying.requests > 0


async def test_a_request_that_crashes_front_ends_crashes_no_more_than_two(world: World) -> None:
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(RawServer()) for _ in range(4)]
        world.show(CATALOG, m=replica(*(server.url for server in servers)))
        answer = await world.post("/v1/completions", PROMPT)
        assert (answer.status, answer.code) == (503, "engine_unreachable")
        assert sorted(server.requests for server in servers) == [0, 0, 1, 1]
