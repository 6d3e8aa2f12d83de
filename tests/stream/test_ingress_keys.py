"""API keys at the ingress: access, visible models, limits, and that no key leaks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import openai
import pytest
from structlog.testing import capture_logs

from broadsheet.v1 import api_key_pb2
from dataplane.ingress.limits import IngressSettings
from dataplane.openai.asgi import JSON, Receive, Scope, Send, send_whole
from dataplane.snapshot.accept import accept
from dataplane.snapshot.revocations.revoked_keys import RevocationsPosition
from dataplane.snapshot.snapshot import Snapshot
from tests import raw, views
from tests.stream.ingress_world import Answer, Recorder, World, ready

KEY = "bs-the-key-of-alice"
CHAT = "/v1/chat/completions"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings())
        yield world


def bearer(key: str = KEY) -> Mapping[str, str]:
    return {"authorization": f"Bearer {key}"}


def catalog(*keys: api_key_pb2.ApiKeyEntry, revision: int = 7) -> Snapshot:
    return views.snapshot(
        views.model("open"), views.model("secret"), views.adapter("open", "lora"), *keys, revision=revision
    )


async def ask(world: World, model: str = "open", **headers: str) -> Answer:
    return await world.post(CHAT, {"model": model, "messages": []}, headers=headers)


async def names(world: World, headers: Mapping[str, str], query: str = "") -> list[str]:
    async with world.http.get(f"/v1/models{query}", headers=headers) as response:
        assert response.status == 200
        return [model["id"] for model in json.loads(await response.read())["data"]]


def error_of(answer: Answer) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(answer.body)["error"]
    return error


async def test_without_any_key_in_the_catalog_the_ingress_is_open(world: World) -> None:
    world.show(catalog(), open=ready(await world.serve(Recorder())))
    assert (await ask(world)).status == 200
    assert (await ask(world, **bearer("anything"))).status == 200
    assert await names(world, {}) == ["open", "open:lora", "secret"]


async def test_with_keys_in_the_catalog_every_request_needs_a_key(world: World) -> None:
    engine = Recorder()
    world.show(catalog(views.api_key("alice", KEY)), open=ready(await world.serve(engine)))
    for headers in ({}, bearer("wrong"), {"authorization": f"Basic {KEY}"}, {"authorization": "Bearer "}, bearer("ü")):
        answer = await ask(world, **headers)
        assert (answer.status, answer.code) == (401, "invalid_api_key")
        assert error_of(answer)["type"] == "invalid_request_error"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert KEY not in answer.body.decode()
    for path in ("/v1/models", "/v1/models/open"):
        assert (await world.get(path)).status == 401
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await world.get(path)).status == 200
    assert engine.requests == []
    assert (await ask(world, **bearer())).status == 200
    assert (await ask(world, **{"x-api-key": KEY})).status == 200
    # The key is not forwarded.
    assert all(KEY not in str(request.headers) for request in engine.requests)


async def test_a_setting_requires_a_key_even_without_keys_in_the_catalog() -> None:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings(require_api_key=True))
        world.show(catalog())
        assert (await ask(world)).status == 401
        assert (await ask(world, **bearer())).code == "invalid_api_key"


async def test_a_key_sees_and_calls_only_its_allowed_models(world: World) -> None:
    engine = Recorder()
    url = await world.serve(engine)
    keys = (
        views.api_key("alice", KEY, "open*"),
        views.api_key("bob", "bs-bob", "*"),
        views.api_key("eve", "bs-e", "?"),
    )
    world.show(catalog(*keys), open=ready(url), secret=ready(url, application="app-2"))
    assert await names(world, bearer()) == ["open", "open:lora"]
    assert await names(world, bearer("bs-bob")) == ["open", "open:lora", "secret"]
    assert await names(world, bearer("bs-e")) == []
    assert await names(world, bearer(), "?limit=2") == ["open", "open:lora"]
    assert await names(world, bearer(), "?after=open") == ["open:lora"]
    async with world.http.get("/v1/models?after=secret", headers=bearer()) as response:
        assert (response.status, json.loads(await response.read())["error"]["param"]) == (400, "after")
    assert (await ask(world, "open", **bearer())).status == 200
    for answer in (await ask(world, "secret", **bearer()), await ask(world, "never-was", **bearer())):
        assert (answer.status, answer.code) == (404, "model_not_found")
    hidden, missing = await ask(world, "secret", **bearer()), await ask(world, "sicret", **bearer())
    assert hidden.message.replace("secret", "sicret") == missing.message
    async with world.http.get("/v1/models/secret", headers=bearer()) as response:
        assert response.status == 404
    async with world.http.get("/v1/models/open:lora", headers=bearer()) as response:
        assert response.status == 200
    assert len(engine.requests) == 1
    assert world.woken == []


async def test_revocation_takes_effect_with_the_snapshot_and_expiry_with_the_clock(world: World) -> None:
    engine = ready(await world.serve(Recorder()))
    world.show(catalog(views.api_key("alice", KEY)), open=engine)
    assert (await ask(world, **bearer())).status == 200
    world.show(catalog(views.api_key("alice", KEY, revoked=True), revision=8), open=engine)
    assert (await ask(world, **bearer())).status == 401
    # Without any valid key, callers still need one.
    assert (await ask(world)).status == 401
    world.show(catalog(views.api_key("alice", KEY, expireTime="2020-01-01T00:00:00Z"), revision=9), open=engine)
    answer = await ask(world, **bearer())
    assert (answer.status, answer.code) == (401, "invalid_api_key")
    assert "expired" in answer.message
    world.show(catalog(views.api_key("alice", KEY, expireTime="2999-01-01T00:00:00Z"), revision=10), open=engine)
    assert (await ask(world, **bearer())).status == 200


async def test_a_quarantined_key_gives_no_access(world: World) -> None:
    damaged = views.api_key("alice", KEY)
    damaged.key_hash = b"too short"
    entries = raw.raws(raw.model("open"), damaged)
    accepted = accept(raw.position(entries), entries, held=None, policy=raw.POLICY)
    assert isinstance(accepted, Snapshot)
    assert set(accepted.quarantined) == {"apiKeys/alice"}
    world.show(accepted)
    assert (await ask(world)).status == 401
    assert (await ask(world, **bearer())).status == 401


async def test_a_request_over_the_limit_is_refused_with_retry_after(world: World) -> None:
    world.show(catalog(views.api_key("alice", KEY, requestsPerMinute=2)), open=ready(await world.serve(Recorder())))
    first = await ask(world, **bearer())
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert (await ask(world, **bearer())).status == 200
    refused = await ask(world, **bearer())
    assert (refused.status, refused.code, error_of(refused)["type"]) == (429, "rate_limit_exceeded", "requests")
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    # Listing models does not count.
    assert await names(world, bearer())
    client = await world.openai()
    with pytest.raises(openai.RateLimitError):
        await client.with_options(api_key=KEY).chat.completions.create(model="open", messages=[])


async def answer_with_usage(scope: Scope, receive: Receive, send: Send) -> None:
    await send_whole(send, 200, [JSON], b'{"choices":[],"usage":{"total_tokens":100}}')


async def stream_with_usage(scope: Scope, receive: Receive, send: Send) -> None:
    events = (
        b'data: {"choices":[{"delta":{}}]}\n\ndata: {"choices":[],"usage":{"total_tokens":100}}\n\ndata: [DONE]\n\n'
    )
    await send_whole(send, 200, [(b"content-type", b"text/event-stream")], events)


@pytest.mark.parametrize("engine", [answer_with_usage, stream_with_usage])
async def test_tokens_of_answers_count_streamed_or_not(world: World, engine: Any) -> None:
    url = await world.serve(Recorder(engine))
    world.show(catalog(views.api_key("alice", KEY, tokensPerMinute=150)), open=ready(url))
    first = await ask(world, **bearer())
    assert (first.status, first.headers["x-ratelimit-remaining-tokens"]) == (200, "150")
    second = await ask(world, **bearer())
    assert (second.status, int(second.headers["x-ratelimit-remaining-tokens"]) // 10) == (200, 5)
    refused = await ask(world, **bearer())
    assert (refused.status, error_of(refused)["type"]) == (429, "tokens")
    assert int(refused.headers["retry-after"]) >= 15


async def test_requests_admitted_by_another_replica_count(world: World) -> None:
    world.show(catalog(views.api_key("alice", KEY, requestsPerMinute=10)), open=ready(await world.serve(Recorder())))
    world.app.key_access.take_over({"other": {"uid-alice": (1000, 0)}}, ["other"])
    world.app.key_access.take_over({"other": {"uid-alice": (1009, 0)}}, ["other"])
    assert (await ask(world, **bearer())).status == 200
    assert (await ask(world, **bearer())).status == 429
    assert world.app.key_access.used() == {"uid-alice": (1, 0)}


async def test_keys_are_never_logged(world: World) -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("engine fault")

    world.show(catalog(views.api_key("alice", KEY)), open=ready(await world.serve(fail)))
    with capture_logs() as logs:
        await ask(world, **bearer())
        await ask(world, "never-was", **bearer())
        await ask(world, **bearer(KEY + "x"))
    assert KEY not in str(logs)


async def test_anthropic_clients_get_anthropics_error_envelope(world: World) -> None:
    world.show(catalog(views.api_key("alice", KEY)))
    answer = await world.post("/v1/messages", {"model": "open", "messages": []}, headers={"x-api-key": "wrong"})
    assert answer.status == 401
    assert json.loads(answer.body)["type"] == "error"


async def test_a_revoked_key_is_refused_although_the_snapshot_still_has_it(world: World) -> None:
    engine = ready(await world.serve(Recorder()))
    only = catalog(views.api_key("alice", KEY))
    world.show(only, open=engine)
    assert (await ask(world, **bearer())).status == 200
    world.app.key_access.revoke(["uid-alice"], RevocationsPosition(store_uid="store", sequence=1))
    refused = await ask(world, **bearer())
    assert (refused.status, error_of(refused)["code"]) == (401, "invalid_api_key")
    async with world.http.get("/v1/models", headers=bearer()) as response:
        assert response.status == 401
    assert (await ask(world)).status == 401, "revoking the last key does not admit everybody"
    world.show(catalog(views.api_key("alice", KEY), revision=8), open=engine)
    assert (await ask(world, **bearer())).status == 401, "a later snapshot does not bring it back"
    world.show(only, open=engine)
    assert (await ask(world, **bearer())).status == 401, "nor does an earlier one"


async def test_other_keys_and_a_new_key_of_the_same_name_are_let_in(world: World) -> None:
    again = views.api_key("alice", "bs-the-new-key")
    again.uid = "uid-of-the-new-key"
    world.app.key_access.revoke(["uid-alice"], RevocationsPosition(store_uid="store", sequence=1))
    world.show(catalog(again, views.api_key("bob", "bs-of-bob")), open=ready(await world.serve(Recorder())))
    assert (await ask(world, **bearer("bs-the-new-key"))).status == 200
    assert (await ask(world, **bearer("bs-of-bob"))).status == 200
