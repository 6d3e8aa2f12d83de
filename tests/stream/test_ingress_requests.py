"""Requests that the ingress answers itself: health, metrics and refusals."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import aiohttp
import openai
import pytest

from dataplane.engine.simulated.app import SimulatedEngine
from dataplane.ingress.limits import IngressSettings
from tests import views
from tests.stream.ingress_world import Answer, World, ready

CHAT = "/v1/chat/completions"
CATALOG = views.snapshot(views.model("m"), views.adapter("m", "a"))
MAX_BODY_BYTES = 100_000


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(
            IngressSettings(max_body_bytes=MAX_BODY_BYTES, max_header_bytes=4000, body_read_timeout_s=0.3)
        )
        yield world


@pytest.fixture
async def engine(world: World) -> SimulatedEngine:
    engine, url = await world.engine()
    world.show(CATALOG, m=ready(url))
    return engine


async def test_without_a_view_it_is_alive_but_not_ready(world: World) -> None:
    assert (await world.get("/healthz")).status == 200
    for answer in (await world.get("/readyz"), await world.get("/v1/models"), await world.post(CHAT, {"model": "m"})):
        assert (answer.status, answer.code) == (503, "not_ready")
        assert answer.headers["retry-after"] == "1"
        assert "x-request-id" in answer.headers
        assert "x-broadsheet-revision" not in answer.headers


async def test_with_a_view_it_is_ready_whatever_the_state_of_its_models(world: World) -> None:
    world.show(CATALOG)
    answer = await world.get("/readyz")
    assert (answer.status, json.loads(answer.body)) == (200, {"status": "ready", "revision": 7})
    assert answer.headers["x-broadsheet-revision"] == "7"
    assert world.woken == []


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"not json", "invalid_json", None),
        (b'{"model":"m"', "invalid_json", None),
        (b"[1]", "invalid_body", None),
        (b'"m"', "invalid_body", None),
        (b"{}", "missing_required_parameter", "model"),
        (b'{"model":null}', "invalid_type", "model"),
        (b'{"model":1}', "invalid_type", "model"),
        (b'{"model":{}}', "invalid_type", "model"),
        (b'{"model":"m","user":"\xff"}', "invalid_json", None),
        (b'{"model":"m","messages":[{"content":"\xff"}]}', "invalid_json", None),
        (b'{"model":"m:a","\xff":1}', "invalid_json", None),
    ],
)
async def test_an_invalid_body_is_refused(
    world: World, engine: SimulatedEngine, body: bytes, code: str, param: str | None
) -> None:
    answer = await world.post(CHAT, raw=body)
    assert (answer.status, answer.code) == (400, code)
    assert json.loads(answer.body)["error"]["param"] == param
    assert answer.headers["x-broadsheet-revision"] == "7"
    assert engine.counters.requests == 0


@pytest.mark.parametrize("name", ["", "M", "m ", "nobody", "x" * 100, "../m", "m:a@" + "ab" * 16, "modèle"])
async def test_an_unknown_name_reaches_no_replica(world: World, engine: SimulatedEngine, name: str) -> None:
    answer = await world.post(CHAT, {"model": name})
    assert (answer.status, answer.code) == (404, "model_not_found")
    assert engine.counters.requests == 0


async def test_with_repeated_models_in_a_body_the_engine_sees_the_resolved_one(
    world: World, engine: SimulatedEngine
) -> None:
    answer = await world.post("/v1/completions", raw=b'{"model":"m","model":"nobody","prompt":"x"}')
    assert answer.code == "model_not_found"
    answer = await world.post("/v1/completions", raw=b'{"model":"nobody","model":"m","prompt":"x","max_tokens":50}')
    assert json.loads(answer.body)["choices"][0]["text"] == "simulated answer of m to: x"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/models/",
        "/v1/chat",
        "/v1/chat/completions/",
        "/V1/chat/completions",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/inference/v1/abort_requests",
        "/abort_requests",
        "/inference/v1/generate",
        "/sleep",
        "/wake_up",
        "/scale_elastic_ep",
        "/health",
        "/version",
        "/server_info",
        "/docs",
        "/openapi.json",
        "/invocations",
        "/ping",
        "/tokenizer_info",
        "/v1/responses/resp_1",
        "/v1/responses/resp_1/cancel",
        "/v1/realtime",
        "/reset_prefix_cache",
        "/collective_rpc",
        "/update_weights",
        "/start_profile",
    ],
)
async def test_other_paths_of_an_engine_are_not_reachable(world: World, engine: SimulatedEngine, path: str) -> None:
    for answer in (await world.post(path, {"model": "m"}), await world.get(path)):
        assert (answer.status, answer.code) == (404, "unknown_url")
    assert engine.counters.requests == 0


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST, OPTIONS"),
        ("HEAD", CHAT, "POST, OPTIONS"),
        ("DELETE", CHAT, "POST, OPTIONS"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/models/m", "GET, HEAD, OPTIONS"),
        ("PUT", "/healthz", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_wrong_method_is_answered_with_the_allowed_methods(
    world: World, engine: SimulatedEngine, method: str, path: str, allow: str
) -> None:
    answer = await world.get(path, method=method)
    assert answer.status == 405
    assert answer.headers["allow"] == allow
    assert method == "HEAD" or answer.code == "method_not_allowed"


async def test_options_and_head(world: World, engine: SimulatedEngine) -> None:
    answer = await world.get(CHAT, method="OPTIONS")
    assert (answer.status, answer.headers["allow"], answer.body) == (204, "POST, OPTIONS", b"")
    head, get = await world.get("/v1/models", method="HEAD"), await world.get("/v1/models")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(get.body))


async def test_a_body_over_the_limit_is_refused(world: World, engine: SimulatedEngine) -> None:
    fits = {"model": "m", "prompt": "x" * (MAX_BODY_BYTES - 100)}
    assert (await world.post("/v1/completions", fits)).status == 200
    client = await world.openai()
    for size in (MAX_BODY_BYTES, 20 * MAX_BODY_BYTES, 300 * MAX_BODY_BYTES):
        with pytest.raises(openai.APIStatusError) as raised:
            await client.completions.create(model="m", prompt="x" * size)
        assert (raised.value.status_code, raised.value.code) == (413, "request_too_large")
    assert engine.counters.requests == 1


async def raw_exchange(world: World, sent: bytes) -> bytes:
    """Send raw bytes. Returns what is received until the connection is closed."""
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()
        await writer.wait_closed()


HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


async def test_a_declared_length_over_the_limit_is_refused_before_it_is_sent(
    world: World, engine: SimulatedEngine
) -> None:
    sent = HEAD + b"expect: 100-continue\r\ncontent-length: 99999999999\r\n\r\n"
    got = await raw_exchange(world, sent)
    assert got.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in got
    assert b"100 Continue" not in got


async def test_a_chunked_body_over_the_limit_is_refused(world: World, engine: SimulatedEngine) -> None:
    chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    got = await raw_exchange(world, HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk * 30)
    assert got.startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_does_not_arrive_times_out(world: World, engine: SimulatedEngine) -> None:
    got = await raw_exchange(world, HEAD + b'content-length: 100\r\n\r\n{"model":')
    assert got.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in got
    assert engine.counters.requests == 0


async def test_headers_over_the_limit_are_refused(world: World, engine: SimulatedEngine) -> None:
    answer = await world.post(CHAT, {"model": "m"}, headers={"x-long": "x" * 5000})
    assert (answer.status, answer.code) == (431, "headers_too_large")
    async with world.http.get("/v1/models", headers={"x-long": "x" * 5000}) as response:
        assert response.status == 431


async def test_a_form_without_a_model_or_with_too_large_a_file_is_refused(
    world: World, engine: SimulatedEngine
) -> None:
    for size, model, status, code in (
        (1000, None, 400, "missing_required_parameter"),
        (MAX_BODY_BYTES, "m", 413, "request_too_large"),
        (5 * MAX_BODY_BYTES, "m", 413, "request_too_large"),
    ):
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("file", b"x" * size, filename="a.wav", content_type="audio/wav")
        if model is not None:
            form.add_field("model", model)
        async with world.http.post("/v1/audio/transcriptions", data=form) as response:
            answer = await Answer.of(response)
        assert (answer.status, answer.code) == (status, code)
    assert engine.counters.requests == 0


async def test_a_websocket_is_refused(world: World, engine: SimulatedEngine) -> None:
    upgrade = (
        b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, close\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    got = await raw_exchange(world, upgrade)
    assert got.startswith(b"HTTP/1.1 404 ")
    assert b'"code":"unknown_url"' in got


async def test_an_internal_error_shows_only_an_id(
    world: World, engine: SimulatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret detail in /srv/broadsheet")

    monkeypatch.setattr("dataplane.ingress.inference.parse_json", fail)
    answer = await world.post(CHAT, {"model": "m"}, headers={"x-request-id": "mine-7"})
    assert (answer.status, answer.code) == (500, "internal_error")
    assert "mine-7" in answer.message
    assert b"secret" not in answer.body
    assert b"srv" not in answer.body


async def test_metrics(world: World, engine: SimulatedEngine) -> None:
    await world.post("/v1/completions", {"model": "m", "prompt": "x"})
    await world.post("/v1/completions", {"model": "m:a", "prompt": "x"})
    for number in range(20):
        await world.post("/v1/completions", {"model": f"nobody-{number}"})
        await world.get(f"/nowhere/{number}")
        await world.get(f"/v1/models/nobody-{number}")
    answer = await world.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    name = "broadsheet_ingress_requests_total"
    assert f'{name}{{kind="model",replica="r1",route="/v1/completions",status="200"}} 1.0' in lines
    assert f'{name}{{kind="adapter",replica="r1",route="/v1/completions",status="200"}} 1.0' in lines
    assert f'{name}{{kind="none",replica="r1",route="/v1/completions",status="404"}} 20.0' in lines
    assert f'{name}{{kind="none",replica="r1",route="other",status="404"}} 20.0' in lines
    assert f'{name}{{kind="none",replica="r1",route="/v1/models/{{name}}",status="404"}} 20.0' in lines
    assert 'broadsheet_ingress_snapshot_revision{replica="r1"} 7.0' in lines
    assert 'broadsheet_ingress_in_flight{replica="r1"} 0.0' in lines
    assert 'broadsheet_ingress_held{replica="r1"} 0.0' in lines
    assert 'broadsheet_ingress_time_to_first_byte_seconds_count{replica="r1",route="/v1/completions"} 2.0' in lines
    assert 'broadsheet_ingress_refusals_total{code="model_not_found",replica="r1"} 40.0' in lines
    assert len([line for line in lines if line.startswith(name)]) == 5
