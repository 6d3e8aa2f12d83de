"""Streams that are kept open while their request waits, read by the clients that people use."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest

from dataplane.ingress.limits import IngressSettings
from dataplane.openai.asgi import JSON, Receive, Scope, Send, send_whole
from dataplane.snapshot.activation import ModelActivation, State
from tests import views
from tests.stream.ingress_world import Answer, Recorder, World, ready, until, unused_url

CHAT = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "ahoy"}], "stream": True}
CATALOG = views.snapshot(views.model("m"), views.model("n"), views.route("r", {"models/m": 1}))
DEPLOYING = ModelActivation(state=State.DEPLOYING, revision_number=1)
FAILED = ModelActivation(state=State.FAILED, revision_number=1, reason="OUT_OF_MEMORY", message="too big")
BEAT_S = 0.02


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings(stream_heartbeat_s=BEAT_S))
        world.show(CATALOG, m=DEPLOYING)
        yield world


async def waiting_answer(world: World, body: object = ASK, path: str = CHAT) -> asyncio.Task[Answer]:
    """A request that has waited for a few beats."""
    asked = asyncio.create_task(world.post(path, body))
    await until(lambda: world.waiting() == 1)
    await asyncio.sleep(5 * BEAT_S)
    assert not asked.done()
    return asked


def without_comments(body: bytes) -> bytes:
    return b"".join(event + b"\n\n" for event in body.split(b"\n\n")[:-1] if not event.startswith(b":"))


async def test_comments_come_while_a_stream_waits_and_then_the_answer(world: World) -> None:
    engine, url = await world.engine(text="ahoy there")
    async with world.http.post(CHAT, json=ASK) as response:
        assert response.status == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-broadsheet-revision"] == "7"
        assert "x-broadsheet-model" not in response.headers
        assert await response.content.readexactly(22) == b": waiting\n\n: waiting\n\n"
        assert engine.counters.requests == 0
        world.show(CATALOG, m=ready(url))
        rest = await response.read()
    comments, _, events = rest.partition(b": x-broadsheet-model: models/m/revisions/1\n\n")
    assert set(comments.split(b"\n\n")) <= {b": waiting", b""}
    assert events.startswith(b"data: ")
    assert events.endswith(b"data: [DONE]\n\n")
    assert b"waiting" not in events


async def test_a_refusal_after_a_comment_is_an_error_event(world: World) -> None:
    asked = await waiting_answer(world)
    world.show(CATALOG, m=FAILED)
    answer = await asked
    assert answer.status == 200
    error, done = without_comments(answer.body).removesuffix(b"\n\n").split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "model_failed"
    assert done == b"data: [DONE]"
    metrics = (await world.get("/metrics")).body
    assert b'broadsheet_ingress_refusals_total{code="model_failed",replica="r1"} 1.0' in metrics


async def test_a_refusal_before_the_first_comment_keeps_its_status(world: World) -> None:
    world.show(CATALOG, m=FAILED)
    assert (await world.post(CHAT, ASK)).status == 503
    assert (await world.post(CHAT, ASK | {"model": "nowhere"})).status == 404


async def test_another_replica_and_a_fallback_can_still_answer(world: World) -> None:
    _, url = await world.engine()
    asked = await waiting_answer(world)
    world.show(CATALOG, m=ready(unused_url(), url))
    assert (await asked).body.endswith(b"data: [DONE]\n\n")
    with_fallback = views.snapshot(
        views.model("m"), views.model("n"), views.route("r", {"models/m": 1}, fallbacks={"models/n": ["UNAVAILABLE"]})
    )
    world.show(with_fallback, m=DEPLOYING, n=ready(url, application="app-n"))
    asked = await waiting_answer(world, ASK | {"model": "r"})
    world.show(with_fallback, m=FAILED, n=ready(url, application="app-n"))
    assert b": x-broadsheet-model: models/n/revisions/1\n\n" in (await asked).body


async def test_a_refusal_of_the_engine_becomes_an_error_event(world: World) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send_whole(send, 400, [JSON], b'{"error":{"message":"too long","type":"BadRequestError","code":400}}')

    asked = await waiting_answer(world)
    world.show(CATALOG, m=ready(await world.serve(Recorder(refuse))))
    answer = await asked
    assert answer.status == 200
    assert without_comments(answer.body) == (
        b'data: {"error":{"message":"too long","type":"BadRequestError","code":400}}\n\ndata: [DONE]\n\n'
    )


@pytest.mark.parametrize(
    "body", [ASK | {"stream": False}, {"model": "m", "messages": []}], ids=["stream is false", "no stream"]
)
async def test_an_answer_that_is_not_streamed_has_no_comments(world: World, body: object) -> None:
    asked = await waiting_answer(world, body)
    world.show(CATALOG, m=FAILED)
    assert (await asked).status == 503


async def test_the_heartbeat_is_off_by_default() -> None:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings())
        world.show(CATALOG, m=DEPLOYING)
        asked = await waiting_answer(world)
        world.show(CATALOG, m=FAILED)
        assert (await asked).status == 503


async def test_a_client_that_leaves_ends_the_heartbeat(world: World) -> None:
    before = len(asyncio.all_tasks())
    asked = await waiting_answer(world)
    asked.cancel()
    await until(lambda: world.waiting() == 0)
    await until(lambda: len(asyncio.all_tasks()) <= before)


# --- what clients make of it ----------------------------------------------------------------------


async def show_later(world: World, activation: ModelActivation) -> None:
    await until(lambda: world.waiting() == 1)
    await asyncio.sleep(5 * BEAT_S)
    world.show(CATALOG, m=activation)


async def test_openais_client_reads_an_answer_after_comments(world: World) -> None:
    _, url = await world.engine(text="ahoy there")
    client = await world.openai()
    later = asyncio.create_task(show_later(world, ready(url)))
    chunks = [
        chunk.choices[0].delta.content or ""
        async for chunk in await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], stream=True
        )
    ]
    await later
    assert "".join(chunks) == "ahoy there"


async def test_openais_client_raises_the_refusal_after_comments(world: World) -> None:
    client = await world.openai()
    later = asyncio.create_task(show_later(world, FAILED))
    with pytest.raises(openai.APIError, match="failed to start: OUT_OF_MEMORY") as raised:
        async for _ in await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], stream=True
        ):
            pass
    await later
    assert raised.value.code == "model_failed"


async def test_openais_client_raises_the_refusal_of_a_response(world: World) -> None:
    client = await world.openai()
    later = asyncio.create_task(show_later(world, FAILED))
    with pytest.raises(openai.APIError, match="failed to start: OUT_OF_MEMORY"):
        async for _ in await client.responses.create(model="m", input="x", stream=True):
            pass
    await later


MESSAGE: dict[str, Any] = {
    "id": "1",
    "type": "message",
    "role": "assistant",
    "content": [],
    "model": "m",
    "stop_reason": None,
}
MESSAGE_EVENTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("message_start", {"message": MESSAGE | {"usage": {"input_tokens": 1, "output_tokens": 0}}}),
    ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
    ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "ahoy"}}),
    ("content_block_stop", {"index": 0}),
    ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}),
    ("message_stop", {}),
)


async def stream_message(scope: Scope, receive: Receive, send: Send) -> None:
    events = "".join(
        f"event: {name}\ndata: {json.dumps({'type': name, **content})}\n\n" for name, content in MESSAGE_EVENTS
    )
    await send_whole(send, 200, [(b"content-type", b"text/event-stream; charset=utf-8")], events.encode())


async def test_anthropics_client_reads_an_answer_and_raises_a_refusal_after_comments(world: World) -> None:
    url = await world.serve(Recorder(stream_message))
    async with anthropic.AsyncAnthropic(base_url=world.url, api_key="x", max_retries=0) as client:

        async def ask() -> str:
            messages: list[anthropic.types.MessageParam] = [{"role": "user", "content": "x"}]
            async with client.messages.stream(model="m", max_tokens=9, messages=messages) as stream:
                return await stream.get_final_text()

        later = asyncio.create_task(show_later(world, ready(url)))
        assert await ask() == "ahoy"
        await later
        world.show(CATALOG, m=DEPLOYING)
        later = asyncio.create_task(show_later(world, FAILED))
        with pytest.raises(anthropic.APIStatusError, match="failed to start: OUT_OF_MEMORY"):
            await ask()
        await later


async def test_a_stream_that_ends_in_an_error_event_counts_as_failed_though_its_status_was_200(world: World) -> None:
    asked = await waiting_answer(world)
    world.show(CATALOG, m=FAILED)
    answer = await asked
    assert answer.status == 200
    assert (world.app.traffic.requests, world.app.traffic.failures) == (1, 1)
