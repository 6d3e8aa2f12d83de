from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from random import Random
from typing import Any

import pytest

from dataplane.engine.simulated.app import SimulatedEngine, SimulatedSettings, build_app


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"tokens_per_secund": 1}, "tokens_per_secund: .*did you mean tokens_per_second.*allowed: start_up_s, "),
        ({"start_up_s": -1}, "start_up_s: got -1, allowed: a number from 0 to 86400"),
        ({"start_up_s": "5"}, "start_up_s: got '5', allowed: a number"),
        ({"start_up_s": True}, "start_up_s: got True, allowed: a number"),
        ({"start_up_s": float("nan")}, "start_up_s: got nan"),
        ({"start_up_s": float("inf")}, "start_up_s: got inf"),
        ({"max_tokens": 1.5}, "max_tokens: got 1.5, allowed: a whole number from 1 to 1000000"),
        ({"max_tokens": 0}, "max_tokens: got 0"),
        ({"max_tokens": None}, "max_tokens: got None"),
        ({"error_rate": 1.1}, "error_rate: got 1.1, allowed: a number from 0 to 1"),
        ({"error_status": 200}, "error_status: got 200, allowed: a whole number from 400 to 599"),
        ({"hang": 1}, "hang: got 1, allowed: true or false"),
        ({"text": 7}, "text: got 7, allowed: text"),
        ({"text": "x" * 10**6}, "text: got 'xxx.*1000002 characters"),
        ({"api_server_count": 17}, "api_server_count: got 17, allowed: a whole number from 1 to 16"),
        ({"max_tokens": 1, "max-tokens": 2}, "max-tokens: given twice"),
    ],
)
def test_each_wrong_arg_has_its_message(args: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulatedSettings.from_args(args)


def test_numbers_may_be_floats_as_in_json() -> None:
    settings = SimulatedSettings.from_args({"max-tokens": 3.0, "start_up_s": 1, "hang": True, "text": "a"})
    assert settings == SimulatedSettings(max_tokens=3, start_up_s=1.0, hang=True, text="a")
    assert SimulatedSettings.from_args({}) == SimulatedSettings()


class Call:
    """One request, made without a server."""

    def __init__(self, path: str, body: object, headers: dict[str, str] | None = None, method: str = "POST") -> None:
        self._scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        }
        self._body: bytes | None = json.dumps(body).encode()
        self.leave = asyncio.Event()
        self.sent: list[MutableMapping[str, Any]] = []

    async def receive(self) -> MutableMapping[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)

    async def to(self, engine: SimulatedEngine) -> Call:
        await engine(self._scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent[1:]).decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def events(self) -> list[Any]:
        pieces = self.text.removesuffix("data: [DONE]\n\n").split("\n\n")
        return [json.loads(piece.removeprefix("data: ")) for piece in pieces if piece]


exits: list[int] = []


def engine(secret: str = "", served_name: str = "", seed: int = 0, **args: object) -> SimulatedEngine:
    settings = SimulatedSettings.from_args(args)
    loop_time = asyncio.get_running_loop().time
    return build_app(
        settings,
        served_name=served_name,
        secret=secret,
        random=Random(seed),
        clock=loop_time,
        exit_process=exits.append,
    )


COMPLETE = "/v1/completions"
CHAT = "/v1/chat/completions"


async def test_the_same_question_gets_the_same_answer() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a b"}]}]}
    first, second = await Call(CHAT, body).to(engine()), await Call(CHAT, body).to(engine())
    assert first.json == second.json
    assert first.json["choices"][0]["message"]["content"] == "simulated answer of m to: a b"
    assert first.json["usage"] == {"prompt_tokens": 2, "completion_tokens": 7, "total_tokens": 9}


async def test_the_length_of_an_answer() -> None:
    async def ask(**fields: object) -> Any:
        call = await Call(COMPLETE, {"model": "m", "prompt": "a", **fields}).to(engine(text="one two three"))
        return call.json["choices"][0]

    assert (await ask())["text"] == "one two three"
    assert (await ask())["finish_reason"] == "stop"
    assert (await ask(max_tokens=2))["text"] == "one two"
    assert (await ask(max_tokens=2))["finish_reason"] == "length"
    assert (await ask(max_tokens=5, ignore_eos=True))["text"] == "one two three one two"
    assert len((await ask(ignore_eos=True))["text"].split()) == 16


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
async def test_a_stream_has_the_same_text_as_a_whole_answer(path: str) -> None:
    body = {"model": "m", "messages": [{"content": "x y"}], "prompt": "x y", "n": 2, "max_tokens": 5}
    whole = (await Call(path, body).to(engine())).json
    options = {"stream": True, "stream_options": {"include_usage": True}}
    call = await Call(path, body | options).to(engine())
    assert call.text.endswith("data: [DONE]\n\n")
    texts = ["", ""]
    reasons: list[str | None] = [None, None]
    *events, last = call.events
    for event in events:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "") if path == CHAT else choice["text"]
            reasons[choice["index"]] = choice["finish_reason"]
    expected = [choice["message"]["content"] if path == CHAT else choice["text"] for choice in whole["choices"]]
    assert texts == expected
    assert reasons == ["length", "length"]
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert "usage" not in events[0]


async def test_the_served_name_is_shown_and_adapters_are_listed() -> None:
    app = engine()
    headers = {"x-broadsheet-served-name": "m:a", "x-broadsheet-adapter": "eA=="}
    call = await Call(COMPLETE, {"model": "m:a@12", "prompt": "x"}, headers).to(app)
    assert call.json["model"] == "m:a"
    assert "simulated answer of m:a@12 to" in call.json["choices"][0]["text"]
    assert list(app.loaded_adapters) == ["m:a@12"]
    await app.unload_adapter("m:a@12")
    await app.unload_adapter("never seen")
    assert list(app.loaded_adapters) == []


async def test_secret_model_method_and_route_are_checked() -> None:
    app = engine(secret="s", served_name="m")
    body = {"model": "m", "prompt": "x"}
    authorized = {"authorization": "Bearer s"}
    assert (await Call(COMPLETE, body).to(app)).status == 401
    assert (await Call(COMPLETE, body, authorized).to(app)).status == 200
    assert (await Call(COMPLETE, body | {"model": "n"}, authorized).to(app)).status == 404
    assert (await Call(COMPLETE, body, authorized, method="GET").to(app)).status == 405
    assert (await Call("/v1/nothing", body, authorized).to(app)).status == 404
    assert (await Call(COMPLETE, [1], authorized).to(app)).status == 400
    assert (await Call("/v1/models", None, authorized, method="GET").to(app)).json["data"][0]["id"] == "m"


async def test_embeddings_and_token_counts() -> None:
    app = engine(embedding_dimensions=3)
    answer = (await Call("/v1/embeddings", {"model": "m", "input": ["a", "b", "a"]}).to(app)).json
    vectors = [item["embedding"] for item in answer["data"]]
    assert [len(vector) for vector in vectors] == [3, 3, 3]
    assert vectors[0] == vectors[2] != vectors[1]
    assert (await Call("/v1/embeddings", {"model": "m", "input": [1, 2]}).to(app)).json["usage"]["prompt_tokens"] == 2
    assert (await Call("/tokenize", {"model": "m", "prompt": "a b c"}).to(app)).json["count"] == 3


async def test_tokens_come_at_the_set_speed() -> None:
    loop = asyncio.get_running_loop()
    body = {"model": "m", "prompt": "x", "stream": True, "max_tokens": 20, "ignore_eos": True}
    begun = loop.time()
    await Call(COMPLETE, body).to(engine(time_to_first_token_s=0.1, tokens_per_second=100))
    assert 0.28 <= loop.time() - begun < 0.6


async def test_errors_come_at_the_set_rate() -> None:
    app = engine(error_rate=0.3, error_status=429)
    statuses = [(await Call(COMPLETE, {"model": "m", "prompt": "x"}).to(app)).status for _ in range(300)]
    assert set(statuses) == {200, 429}
    assert 60 < statuses.count(429) < 120


async def test_a_break_leaves_a_stream_without_its_end() -> None:
    call = await Call(COMPLETE, {"model": "m", "prompt": "x", "stream": True}).to(engine(break_after_tokens=2))
    assert [event["choices"][0]["text"] for event in call.events] == ["simulated", " answer"]
    assert call.sent[-1]["more_body"] is True


async def test_it_crashes_after_the_set_number_of_requests() -> None:
    app = engine(crash_after_requests=2)
    for _ in range(2):
        await Call(COMPLETE, {"model": "m", "prompt": "x"}).to(app)
    assert exits == []
    await Call(COMPLETE, {"model": "m", "prompt": "x"}).to(app)
    assert exits == [70]


async def test_it_hangs_after_the_set_number_of_requests_until_it_is_killed() -> None:
    app = engine(hang_after_requests=1, text="one two three", tokens_per_second=1)
    stream = Call(COMPLETE, {"model": "m", "prompt": "x", "stream": True})
    streaming = asyncio.create_task(stream.to(app))
    await asyncio.sleep(0.01)
    await asyncio.wait_for(app.answer(), 1)
    waiting = asyncio.create_task(Call(COMPLETE, {"model": "m", "prompt": "x"}).to(app))
    sent = len(stream.sent)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(app.answer(), 1.2)
    assert (app.is_alive, len(stream.sent)) == (True, sent)
    app.kill()
    await app.answer()
    await streaming
    assert not app.is_alive
    assert stream.sent[-1]["more_body"] is True, "it was cut"
    assert (await waiting).status == 500


async def test_a_disconnected_client_ends_the_work() -> None:
    app = engine(hang=True)
    call = Call(COMPLETE, {"model": "m", "prompt": "x"})
    asked = asyncio.create_task(call.to(app))
    await asyncio.sleep(0.01)
    assert app.counters.in_flight == 1
    call.leave.set()
    await asked
    assert (app.counters.in_flight, app.counters.cancelled) == (0, 1)
    assert call.sent == []
