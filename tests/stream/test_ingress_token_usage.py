"""What counts against a key's limit of tokens, and that callers notice nothing of the counting."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping

import aiohttp
import pytest

from dataplane.engine.simulated.app import SimulatedEngine
from dataplane.ingress.limits import IngressSettings
from dataplane.openai.asgi import JSON, Receive, Scope, Send, send_whole
from tests import views
from tests.stream.ingress_world import Recorder, World, ready, until

CHAT, COMPLETIONS, AUDIO = "/v1/chat/completions", "/v1/completions", "/v1/audio/transcriptions"
PROMPT = "one two three four five six"
ASK = {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "prompt": PROMPT}
LIMITED, FREE = {"authorization": "Bearer bs-limited"}, {"authorization": "Bearer bs-free"}
CATALOG = views.snapshot(
    views.model("m"),
    views.api_key("limited", "bs-limited", tokensPerMinute=1_000_000),
    views.api_key("free", "bs-free", requestsPerMinute=1_000_000),
)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings())
        yield world


async def serve(world: World, **args: object) -> SimulatedEngine:
    engine, url = await world.engine(**args)
    world.show(CATALOG, m=ready(url))
    return engine


def charged(world: World) -> int:
    """Tokens that were charged to the limited key."""
    return world.app.key_access.used().get("uid-limited", (0, 0))[1]


async def stream(world: World, path: str, headers: Mapping[str, str], body: Mapping[str, object]) -> bytes:
    answer = await world.post(path, {"stream": True, **body}, headers=headers)
    assert answer.status == 200
    return re.sub(rb"simulated-\d+", b"simulated-N", answer.body)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("options", [{}, {"include_usage": True}, {"include_usage": False}, None])
@pytest.mark.parametrize("choices", [1, 3])
async def test_a_stream_is_the_same_with_a_limit_of_tokens_and_its_prompt_counts(
    world: World, path: str, options: object, choices: int
) -> None:
    await serve(world, text="a b c d")
    body = ASK | {"n": choices} | ({} if options is None else {"stream_options": options})
    assert await stream(world, path, LIMITED, body) == await stream(world, path, FREE, body)
    prompt_tokens = len(PROMPT.split()) * 2  # the simulated engine reads both kinds of prompt
    assert charged(world) == prompt_tokens + choices * 4


async def test_an_engine_is_asked_for_usage_only_for_keys_with_a_limit_of_tokens(world: World) -> None:
    recorder = Recorder()
    world.show(CATALOG, m=ready(await world.serve(recorder)))
    body = ASK | {"stream": True}
    await world.post(CHAT, body, headers=FREE)
    await world.post(CHAT, body, headers=LIMITED)
    untouched, asking = (json.loads(request.body) for request in recorder.requests)
    assert untouched == body
    assert asking == body | {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}


async def abandon(world: World, path: str, body: Mapping[str, object], *, after: bytes) -> None:
    """Leave an answer as soon as it has these bytes; at once if there are none."""
    got = b""
    with contextlib.suppress(asyncio.TimeoutError):
        timeout = aiohttp.ClientTimeout(total=None if after else 0.2)
        async with world.http.post(path, json=body, headers=LIMITED, timeout=timeout) as response:
            while after not in got:
                got += await response.content.readany()
            response.close()
    await until(lambda: world.app.usage()["models/m"].in_flight == 0)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_an_abandoned_stream_counts_its_prompt_and_what_was_generated(world: World, path: str) -> None:
    await serve(world, text="a b c d e f g h i j k l", tokens_per_second=20)
    await abandon(world, path, ASK | {"stream": True}, after=b" d")
    assert 12 + 4 <= charged(world) <= 12 + 7


async def test_an_abandoned_answer_counts_its_prompt_by_its_bytes(world: World) -> None:
    engine = await serve(world, hang=True)
    await abandon(world, CHAT, ASK, after=b"")
    assert engine.counters.cancelled == 1
    assert charged(world) == len(json.dumps(ASK)) // 4


async def test_what_no_engine_has_begun_or_answered_counts_nothing(world: World) -> None:
    await serve(world, error_rate=1)
    assert (await world.post(CHAT, ASK, headers=LIMITED)).status == 500
    world.show(CATALOG)  # nothing runs
    asked = asyncio.create_task(world.post(CHAT, ASK, headers=LIMITED))
    await until(lambda: world.waiting() == 1)
    asked.cancel()
    await until(lambda: world.waiting() == 0)
    world.show(CATALOG, m=ready("http://127.0.0.1:9"))
    assert (await world.post(CHAT, ASK, headers=LIMITED)).status == 503
    await serve(world)
    assert (await world.post("/tokenize", {"model": "m", "prompt": PROMPT}, headers=LIMITED)).status == 200
    assert charged(world) == 0


TRANSCRIPT = b'{"text":"ahoy, matey","usage":{"type":"duration","seconds":3}}'
AUDIO_EVENTS = (
    b'data: {"id":"t","choices":[{"delta":{"content":"ahoy"}}]%b}\n\n',
    b'data: {"id":"t","choices":[{"delta":{"content":"!"},"finish_reason":"stop"}]%b}\n\n',
    b'data: {"id":"t","choices":[]%b}\n\n',
)
USAGE = b',"usage":{"prompt_tokens":304,"total_tokens":306,"completion_tokens":2}'


async def transcribe(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as vLLM transcribes; what was asked is in the recorder."""
    await send_whole(send, 200, [JSON], TRANSCRIPT)


async def transcribe_in_events(scope: Scope, receive: Receive, send: Send) -> None:
    events = b"".join(event % USAGE for event in AUDIO_EVENTS) + b"data: [DONE]\n\n"
    await send_whole(send, 200, [(b"content-type", b"text/event-stream; charset=utf-8")], events)


def form(**fields: str) -> aiohttp.FormData:
    made = aiohttp.FormData({"model": "m", **fields})
    made.add_field("file", b"RIFF" + b"\0" * 16_000, filename="a.wav", content_type="audio/wav")
    return made


async def test_a_transcription_counts_its_seconds_and_its_text(world: World) -> None:
    world.show(CATALOG, m=ready(await world.serve(Recorder(transcribe))))
    async with world.http.post(AUDIO, data=form(), headers=LIMITED) as response:
        assert await response.read() == TRANSCRIPT
    assert charged(world) == 300 + len('"ahoy, matey"') // 4


async def test_a_streamed_transcription_counts_what_the_engine_reports(world: World) -> None:
    recorder = Recorder(transcribe_in_events)
    world.show(CATALOG, m=ready(await world.serve(recorder)))
    async with world.http.post(AUDIO, data=form(stream="true"), headers=LIMITED) as response:
        got = await response.read()
    assert got == b"".join(event % b"" for event in AUDIO_EVENTS[:2]) + b"data: [DONE]\n\n"
    assert charged(world) == 306
    for name in (b"stream_include_usage", b"stream_continuous_usage_stats"):
        assert b'name="%b"\r\n\r\ntrue\r\n' % name in recorder.requests[0].body
