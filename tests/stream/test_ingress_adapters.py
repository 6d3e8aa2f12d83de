"""Adapters that an engine cannot load: who asked for one learns why, and nobody else notices."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dataplane.engine.adapters import AdapterCache
from dataplane.engine.app import ReplicaApp
from dataplane.engine.replica_adapters import ReplicaAdapters
from dataplane.ingress.limits import IngressSettings
from dataplane.openai.asgi import JSON, Receive, Scope, Send, send_whole
from dataplane.openai.wire import ADAPTER_FAILED_HEADER
from tests import views
from tests.stream.ingress_world import SECRET, Recorder, World, ready
from tests.unit.dataplane.engine.test_adapters import FILES, entry

CHAT = "/v1/chat/completions"
WORDS = "expected target modules in {'q_proj'}, got ['/models/secret/x'] from 10.0.0.7:8000"
SHOWN = "ADAPTER_LOAD_FAILED: expected target modules in {'q_proj'}, got [<path>] from <address>"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        made = World(stack)
        await made.start(IngressSettings())
        yield made


@pytest.fixture
async def adapter_source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    for name, content in FILES.items():
        (source / name).write_bytes(content)
    return source


async def replica(world: World, directory: Path, **args: object) -> str:
    """The URL of an engine as its replica serves it."""
    engine, _ = await world.engine(**args)
    adapters = ReplicaAdapters(
        AdapterCache(directory), engine.load_adapter, clock=time.monotonic, on_tried=lambda *tried: None
    )
    app = ReplicaApp(engine, secret=SECRET, ensure_adapter=adapters.ensure, is_alive=lambda: engine.is_alive)
    return await world.serve(app)


async def test_the_caller_of_a_failed_adapter_gets_the_engines_words_and_others_are_answered(
    world: World, adapter_source: Path, tmp_path: Path
) -> None:
    adapter = entry(adapter_source)
    adapter.served_name, adapter.model = "m:a", "models/m"
    route = views.route("chat", {adapter.name: 1}, fallbacks={"models/m": ["UNAVAILABLE"]})
    plain = views.route("plain", {adapter.name: 1})
    catalog = views.snapshot(views.model("m"), adapter, route, plain)
    world.show(catalog, m=ready(await replica(world, tmp_path / "cache", fail_adapters=WORDS)))

    answer = await world.post(CHAT, {"model": "m:a"})
    assert answer.status == 503
    assert answer.headers["retry-after"] == "2"
    assert not [name for name in answer.headers if name.startswith(ADAPTER_FAILED_HEADER)]
    error = json.loads(answer.body)["error"]
    assert error["message"] == f"The adapter `m:a` could not be loaded: {SHOWN}"
    assert (error["type"], error["code"]) == ("server_error", "adapter_failed")

    assert (await world.post(CHAT, {"model": "m"})).status == 200
    assert (await world.post(CHAT, {"model": "chat"})).status == 200, "the route falls back to the base"
    refused = json.loads((await world.post(CHAT, {"model": "plain"})).body)["error"]["message"]
    assert refused == f"The adapter `plain` could not be loaded: {SHOWN}"
    anthropic = json.loads((await world.post("/v1/messages", {"model": "m:a"})).body)
    assert (anthropic["type"], anthropic["error"]["code"]) == ("error", "adapter_failed")


async def test_an_adapter_that_loads_is_answered(world: World, adapter_source: Path, tmp_path: Path) -> None:
    adapter = entry(adapter_source)
    adapter.served_name, adapter.model = "m:a", "models/m"
    world.show(views.snapshot(views.model("m"), adapter), m=ready(await replica(world, tmp_path / "cache")))
    assert (await world.post(CHAT, {"model": "m:a"})).status == 200


async def test_a_replica_that_marks_what_is_no_error_is_not_believed(world: World) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send_whole(send, 503, [JSON, (ADAPTER_FAILED_HEADER.encode(), b"1")], b"not json")

    catalog = views.snapshot(views.model("m"), views.adapter("m", "a"))
    world.show(catalog, m=ready(await world.serve(Recorder(broken))))
    answer = await world.post(CHAT, {"model": "m:a"})
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "engine_unreachable")
