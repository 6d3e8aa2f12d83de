"""The ingress as the `openai` package sees it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from dataplane.engine.simulated.app import SimulatedEngine
from dataplane.ingress.limits import IngressSettings
from dataplane.snapshot.activation import ModelActivation, State
from tests import views
from tests.stream.ingress_world import World, ready

CATALOG = views.snapshot(
    views.model("smol", card={"displayName": "Smol", "ownedBy": "the zoo", "contextWindow": "2048"}),
    views.model("big", served_name="org/Big-1:latest", args={"max_model_len": 512}),
    views.adapter("smol", "pirate"),
)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings())
        yield world


@pytest.fixture
async def engine(world: World) -> SimulatedEngine:
    engine, url = await world.engine()
    world.show(CATALOG, smol=ready(url, number=3), big=ready(url))
    return engine


async def test_chat(world: World, engine: SimulatedEngine) -> None:
    client = await world.openai()
    answer = await client.chat.completions.create(
        model="smol", messages=[{"role": "user", "content": "ahoy there"}], n=2
    )
    assert [choice.message.content for choice in answer.choices] == ["simulated answer of smol to: ahoy there"] * 2
    assert answer.model == "smol"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 14)


async def test_completions_obey_max_tokens(world: World, engine: SimulatedEngine) -> None:
    client = await world.openai()
    answer = await client.completions.create(model="org/Big-1:latest", prompt="ahoy", max_tokens=3)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("simulated answer of", "length")
    assert answer.model == "org/Big-1:latest"


async def test_a_stream_with_usage(world: World, engine: SimulatedEngine) -> None:
    client = await world.openai()
    stream = await client.chat.completions.create(
        model="smol",
        messages=[{"role": "user", "content": "ahoy"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "simulated answer of smol to: ahoy"
    assert {chunk.model for chunk in chunks} == {"smol"}
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 7


async def test_embeddings_and_their_headers(world: World, engine: SimulatedEngine) -> None:
    client = await world.openai()
    raw = await client.embeddings.with_raw_response.create(model="smol", input=["a b", "c"])
    assert len(raw.parse().data) == 2
    assert raw.headers["x-broadsheet-revision"] == "7"
    assert raw.headers["x-broadsheet-model"] == "models/smol/revisions/3"


async def test_an_adapter_answers_under_its_own_name(world: World, engine: SimulatedEngine) -> None:
    client = await world.openai()
    answer = await client.chat.completions.create(
        model="smol:pirate", messages=[{"role": "user", "content": "ahoy"}], max_tokens=50
    )
    assert answer.model == "smol:pirate"
    assert answer.choices[0].message.content == f"simulated answer of smol:pirate@{'ab' * 16} to: ahoy"


async def test_the_list_of_models_is_that_of_the_snapshot(world: World) -> None:
    world.show(CATALOG)
    client = await world.openai()
    models = {model.id: model async for model in client.models.list()}
    assert list(models) == ["org/Big-1:latest", "smol", "smol:pirate"]
    assert models["smol"].owned_by == "the zoo"
    assert models["smol"].created == 1767323045
    assert models["smol"].to_dict() | {"created": 0} == {
        "id": "smol",
        "object": "model",
        "created": 0,
        "owned_by": "the zoo",
        "root": "smol",
        "max_model_len": 2048,
        "task": "generate",
        "state": "IDLE",
    }
    assert models["org/Big-1:latest"].to_dict()["max_model_len"] == 512
    assert models["org/Big-1:latest"].owned_by == "broadsheet"
    assert models["smol:pirate"].to_dict()["parent"] == "smol"
    assert models["smol:pirate"].owned_by == "the zoo"
    assert world.woken == []


async def test_the_list_is_paged_on_request(world: World) -> None:
    world.show(CATALOG)
    client = await world.openai()

    async def page(**query: object) -> dict[str, object]:
        raw = await client.get("/models", cast_to=httpx.Response, options={"params": query})
        answer: dict[str, object] = raw.json()
        return answer

    whole = await page()
    assert whole.keys() == {"object", "data"}
    assert isinstance(whole["data"], list)
    assert await page(unknown=1) == whole, "what means nothing here is passed over"
    first = await page(limit=2)
    assert first == {
        "object": "list",
        "data": whole["data"][:2],
        "first_id": "org/Big-1:latest",
        "last_id": "smol",
        "has_more": True,
    }
    last = await page(limit=2, after="smol")
    assert (last["data"], last["has_more"]) == (whole["data"][2:], False)
    with pytest.raises(openai.BadRequestError, match="got '0'; allowed: a whole number from 1 to 1000") as caught:
        await page(limit=0)
    assert (caught.value.param, caught.value.code) == ("limit", "invalid_value")


async def test_anthropics_clients_get_their_own_fields_and_pages(world: World) -> None:
    world.show(CATALOG)
    headers = {"anthropic-version": "2023-06-01"}

    async def get(path: str, **query: str | int) -> dict[str, Any]:
        async with world.http.get(f"/v1{path}", params=query, headers=headers) as response:
            answer: dict[str, Any] = await response.json()
            return answer

    first = await get("/models", limit=2)
    assert (first["first_id"], first["last_id"], first["has_more"]) == ("org/Big-1:latest", "smol", True)
    last = await get("/models", limit=2, after_id=first["last_id"])
    assert ([model["id"] for model in last["data"]], last["has_more"]) == (["smol:pirate"], False)
    back = await get("/models", limit=1, before_id="smol:pirate")
    assert ([model["id"] for model in back["data"]], back["has_more"]) == (["smol"], True)
    whole = await get("/models")
    assert ([model["id"] for model in whole["data"]], whole["has_more"]) == (list(CATALOG.served), False)
    one = await get("/models/smol")
    assert one == whole["data"][1] == first["data"][1]
    assert one | {"owned_by": ""} == {
        "type": "model",
        "id": "smol",
        "display_name": "Smol",
        "created_at": "2026-01-02T03:04:05Z",
        "lifecycle": "active",
        "max_input_tokens": 2048,
        "object": "model",
        "created": 1767323045,
        "owned_by": "",
        "root": "smol",
        "max_model_len": 2048,
        "task": "generate",
        "state": "IDLE",
    }
    assert whole["data"][0]["display_name"] == "org/Big-1:latest"
    assert whole["data"][2]["created_at"] == "1970-01-01T00:00:00Z", "unknown"
    assert (await get("/models", after_id="never"))["type"] == "error"
    assert (await get("/models/never"))["type"] == "error"


@pytest.mark.parametrize("name", ["smol", "org/Big-1:latest", "smol:pirate"])
async def test_a_model_is_retrieved_by_any_served_name(world: World, name: str) -> None:
    world.show(CATALOG)
    client = await world.openai()
    assert (await client.models.retrieve(name)).id == name
    assert json.loads((await world.get(f"/v1/models/{name}")).body)["id"] == name


async def test_the_list_follows_the_snapshot(world: World) -> None:
    client = await world.openai()
    world.show(CATALOG)
    assert len((await client.models.list()).data) == 3
    world.show(views.snapshot(views.model("new"), revision=8))
    assert [model.id for model in (await client.models.list()).data] == ["new"]
    world.show(views.snapshot(revision=9))
    assert (await client.models.list()).data == []


async def test_the_list_shows_the_state_of_each_model(world: World) -> None:
    client = await world.openai()
    failed = ModelActivation(state=State.FAILED, revision_number=1)
    for activations, state in (({}, "IDLE"), ({"smol": ready("http://engine")}, "READY"), ({"smol": failed}, "FAILED")):
        world.show(CATALOG, **activations)
        listed = {model.id: model.to_dict()["state"] async for model in client.models.list()}
        assert listed == {"smol": state, "org/Big-1:latest": "IDLE", "smol:pirate": state}
        assert (await client.models.retrieve("smol")).to_dict()["state"] == state
    assert world.woken == []


async def test_an_unknown_model_is_not_found_and_reaches_no_replica(world: World, engine: SimulatedEngine) -> None:
    client = await world.openai()
    with pytest.raises(openai.NotFoundError) as raised:
        await client.chat.completions.create(model="gpt-9", messages=[])
    assert raised.value.code == "model_not_found"
    assert raised.value.param == "model"
    assert "The model `gpt-9` does not exist." in str(raised.value)
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("org/unknown")
    engine_side_name = f"smol:pirate@{'ab' * 16}"
    with pytest.raises(openai.NotFoundError):
        await client.completions.create(model=engine_side_name, prompt="")
    assert engine.counters.requests == 0
    assert world.woken == []


async def test_an_engines_own_error_is_forwarded(world: World) -> None:
    _, url = await world.engine(max_model_len=3)
    world.show(CATALOG, smol=ready(url))
    client = await world.openai()
    with pytest.raises(openai.BadRequestError, match="longer than 3 tokens"):
        await client.completions.create(model="smol", prompt="one two three four")


async def test_a_crash_within_a_stream_ends_it_with_an_error(world: World) -> None:
    _, url = await world.engine(break_after_tokens=3)
    world.show(CATALOG, smol=ready(url))
    client = await world.openai()
    stream = await client.completions.create(model="smol", prompt="ahoy", stream=True)
    texts: list[str] = []

    async def read() -> None:
        async for chunk in stream:
            texts.append(chunk.choices[0].text)

    with pytest.raises(openai.APIError, match="went away before its answer was complete"):
        await read()
    assert "".join(texts) == "simulated answer of"
    assert world.app.usage()["models/smol"].in_flight == 0


async def test_a_change_of_view_does_not_affect_a_running_stream(world: World) -> None:
    _, url = await world.engine(tokens_per_second=50)
    world.show(CATALOG, smol=ready(url))
    client = await world.openai()
    raw = await client.completions.with_raw_response.create(model="smol", prompt="ahoy", stream=True)
    texts = []
    async for chunk in raw.parse():
        world.show(views.snapshot(revision=99))
        texts.append(chunk.choices[0].text)
    assert "".join(texts) == "simulated answer of smol to: ahoy"
    assert raw.headers["x-broadsheet-revision"] == "7"
