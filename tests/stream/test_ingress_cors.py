"""Which web pages may call the ingress from a browser, by the CORS protocol."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from dataplane.ingress.limits import IngressSettings
from dataplane.openai.asgi import JSON, Receive, Scope, Send, send_whole
from tests import views
from tests.stream.ingress_world import Answer, Recorder, World, ready

CHAT = "/v1/chat/completions"
PAGE, OTHER = "https://chat.example.com", "https://evil.example.com"
CATALOG = views.snapshot(views.model("m"), views.api_key("alice", "bs-alice"))
KEY = {"authorization": "Bearer bs-alice"}


async def answer_like_vllm(scope: Scope, receive: Receive, send: Send) -> None:
    """Allow every origin, as vLLM's app does for requests with an `origin` header."""
    allowed = [(b"access-control-allow-origin", b"*")] if b"origin" in dict(scope["headers"]) else []
    await send_whole(send, 200, [JSON, *allowed, (b"access-control-expose-headers", b"x-inner")], b"{}")


@contextlib.asynccontextmanager
async def world_of(*origins: str, credentials: bool = False) -> AsyncIterator[tuple[World, Recorder]]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings(cors_allow_origins=origins, cors_allow_credentials=credentials))
        recorder = Recorder(answer_like_vllm)
        world.show(CATALOG, m=ready(await world.serve(recorder)))
        yield world, recorder


async def preflight(world: World, origin: str, path: str = CHAT, method: str = "POST") -> Answer:
    """The preflight of a browser for a request of the `openai` package."""
    asked = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }
    async with world.http.options(path, headers=asked) as response:
        return await Answer.of(response)


def cors(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


async def test_by_default_no_page_may_call_whatever_the_engine_answers() -> None:
    async with world_of() as (world, recorder):
        assert cors(await preflight(world, PAGE)) == {}
        answer = await world.post(CHAT, {"model": "m"}, headers={**KEY, "origin": PAGE})
        assert (answer.status, cors(answer)) == (200, {})
        assert recorder.requests[0].header(b"origin") is None


async def test_a_preflight_is_answered_without_a_key_and_reaches_no_engine() -> None:
    async with world_of(PAGE, "http://localhost:3000") as (world, recorder):
        for path, method in ((CHAT, "POST"), ("/v1/models", "GET")):
            answer = await preflight(world, PAGE, path, method)
            assert answer.status == 200
            assert cors(answer) == {
                "access-control-allow-origin": PAGE,
                "access-control-allow-methods": "GET, HEAD, POST",
                "access-control-allow-headers": "authorization,content-type,x-stainless-lang",
                "access-control-max-age": "600",
            }
            assert "Origin" in answer.headers["vary"]
        assert (await preflight(world, PAGE, CHAT, "DELETE")).status == 400
        assert recorder.requests == []


async def test_allowed_pages_can_read_answers_and_refusals() -> None:
    async with world_of(PAGE) as (world, _):
        for headers, model, status in ((KEY, "m", 200), (KEY, "nobody", 404), ({}, "m", 401)):
            answer = await world.post(CHAT, {"model": model}, headers={**headers, "origin": PAGE})
            assert answer.status == status
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert "Origin" in answer.headers["vary"]
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            assert {"x-request-id", "x-broadsheet-revision", "x-broadsheet-model", "x-broadsheet-route"} <= {*exposed}
            assert "x-inner" not in exposed
            assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", [OTHER, PAGE + ".evil.com", PAGE + ":8443", "http://chat.example.com", "null"])
async def test_other_pages_may_not_call(origin: str) -> None:
    async with world_of(PAGE) as (world, _):
        refused = await preflight(world, origin)
        assert (refused.status, "access-control-allow-origin" in refused.headers) == (400, False)
        answer = await world.post(CHAT, {"model": "m"}, headers={**KEY, "origin": origin})
        assert "access-control-allow-origin" not in answer.headers


async def test_all_pages_may_be_allowed_but_never_with_credentials() -> None:
    async with world_of("*") as (world, _):
        answer = await world.post(CHAT, {"model": "m"}, headers={**KEY, "origin": OTHER})
        for response in (answer, await preflight(world, OTHER)):
            assert response.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in response.headers


async def test_credentials_are_allowed_for_named_origins() -> None:
    async with world_of(PAGE, credentials=True) as (world, _):
        answer = await world.post(CHAT, {"model": "m"}, headers={**KEY, "origin": PAGE})
        for response in (answer, await preflight(world, PAGE)):
            assert response.headers["access-control-allow-origin"] == PAGE
            assert response.headers["access-control-allow-credentials"] == "true"
