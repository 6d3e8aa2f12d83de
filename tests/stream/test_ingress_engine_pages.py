"""What Prometheus reads of engines through the ingress."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.scraping import engine_pages
from dataplane.openai.asgi import Receive, Scope, Send, send_whole
from tests import views
from tests.stream.ingress_world import SECRET, Recorder, World, ready, until, unused_url

LIST = "/metrics/engines"
KEY = "bs-the-key-of-prometheus"
LIMITED = "bs-the-key-of-somebody"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings())
        yield world


async def recorder(world: World, body: bytes = b"vllm:num_requests_running 0.0\n", status: int = 200) -> Recorder:
    """An engine with this page, as the only replica of the model `m`."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send_whole(send, status, [(b"content-type", b"text/plain; version=0.0.4")], body)

    engine = Recorder(answer)
    world.show(views.snapshot(views.model("m")), m=ready(await world.serve(engine)))
    return engine


async def path(world: World) -> str:
    """Where the page of the only replica is."""
    [group] = json.loads((await world.get(LIST)).body)
    return str(group["labels"]["__metrics_path__"])


async def test_the_list_names_every_replica_for_prometheus(world: World) -> None:
    catalog = views.snapshot(views.model("m"), views.model("n"), views.model("idle"))
    activation = {"m": ready("http://e:1", "http://e:2"), "n": ready("http://e:3")}
    world.show(catalog, **activation)
    answer = await world.get(LIST)
    assert answer.headers["content-type"].startswith("application/json")
    groups = json.loads(answer.body)
    assert [group["targets"] for group in groups] == [[world.url.removeprefix("http://")]] * 3
    ids = [endpoint.replica_id for model in activation.values() for endpoint in model.endpoints]
    assert [group["labels"] for group in groups] == [
        {"__metrics_path__": f"{LIST}/{replica_id}", "model": model, "replica": replica_id}
        for model, replica_id in zip(("m", "m", "n"), ids, strict=True)
    ]


async def test_the_page_of_a_replica_shows_its_requests(world: World) -> None:
    engine, url = await world.engine(time_to_first_token_s=30)
    world.show(views.snapshot(views.model("m")), m=ready(url))
    asking = asyncio.create_task(world.post("/v1/completions", {"model": "m", "prompt": "x"}))
    await until(lambda: engine.counters.in_flight == 1)
    page = await world.get(await path(world))
    asking.cancel()
    assert (page.status, page.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'vllm:num_requests_running{engine="0"} 1.0' in page.body.splitlines()


async def test_callers_of_one_second_cost_the_engine_one_request(world: World) -> None:
    engine = await recorder(world)
    where = await path(world)
    answers = await asyncio.gather(*(world.get(where) for _ in range(50)))
    answers.append(await world.get(where))
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"vllm:num_requests_running 0.0\n")}
    [request] = engine.requests
    assert request.path == "/metrics"
    assert request.header(b"authorization") == f"Bearer {SECRET}".encode()


async def test_a_page_is_fetched_again_after_a_second(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_pages, "_KEPT_S", 0)
    engine = await recorder(world)
    where = await path(world)
    for _ in range(3):
        assert (await world.get(where)).status == 200
    assert len(engine.requests) == 3


async def test_an_engine_that_says_nothing_ends_the_scrape(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_pages, "_TIMEOUT_S", 0.05)

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(5)

    world.show(views.snapshot(views.model("m")), m=ready(await world.serve(hang)))
    answer = await world.get(await path(world))
    assert (answer.status, answer.code) == (504, "engine_timeout")


async def test_a_page_that_is_none_is_not_passed_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_pages, "_KEPT_S", 0)
    await recorder(world, b"a stack trace", status=500)
    assert b"stack" not in (await world.get(await path(world))).body
    world.show(views.snapshot(views.model("m")), m=ready(unused_url()))
    assert (await world.get(await path(world))).status == 503
    monkeypatch.setattr(engine_pages, "_PAGE_BYTES_MAX", 1 << 16)
    await recorder(world, b"x" * (1 << 20))
    answer = await world.get(await path(world))
    assert answer.status == 503
    assert len(answer.body) < 1000


async def test_no_page_is_kept_after_its_second(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await recorder(world)
    assert (await world.get(await path(world))).status == 200
    monkeypatch.setattr(engine_pages, "_KEPT_S", 0)
    await recorder(world)
    assert (await world.get(await path(world))).status == 200
    assert len(world.app._engine_pages._fetched) == 1


@pytest.mark.parametrize("name", ["nobody", "", "..", "a%2Fb", "x" * 5000])
async def test_other_pages_do_not_exist(world: World, name: str) -> None:
    engine = await recorder(world)
    assert (await world.get(f"{LIST}/{name}")).status == 404
    assert (await world.get(f"{LIST}x")).status == 404
    assert engine.requests == []


async def test_only_a_key_of_every_name_sees_the_engines(world: World) -> None:
    engine = await recorder(world)
    where = await path(world)
    view = world.views.current
    assert view is not None
    catalog = views.snapshot(
        views.model("m"), views.api_key("all", KEY), views.api_key("some", LIMITED, "m", "m:*"), revision=8
    )
    world.show(catalog, m=view.activation.models["models/m"])

    async def status(at: str, key: str) -> int:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with world.http.get(at, headers=headers) as response:
            return response.status

    for at in (LIST, where):
        assert await status(at, "") == 401
        assert await status(at, LIMITED) == 404
    assert engine.requests == []
    for at in (LIST, where):
        assert await status(at, KEY) == 200


async def test_engines_are_only_read(world: World) -> None:
    engine = await recorder(world)
    for at in (LIST, await path(world)):
        assert (await world.post(at, {})).status == 405
    assert engine.requests == []
