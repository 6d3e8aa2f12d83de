from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Mapping

import pytest

from dataplane.ingress.models import list as models_list
from dataplane.ingress.models.list import ModelsList
from dataplane.ingress.models.model_object import ModelObject, encode_model, stateless_object
from dataplane.snapshot.activation import Activation, ModelActivation, State, View
from dataplane.snapshot.api_key import ApiKey
from dataplane.snapshot.snapshot import Resource, Snapshot
from tests import views


def in_state(state: State) -> ModelActivation:
    return ModelActivation(state=state, revision_number=1)


def shown(catalog: Snapshot, name: str, **states: State) -> dict[str, object]:
    """The object of a model."""
    view = views.view(catalog, {model: in_state(state) for model, state in states.items()})
    found: dict[str, object] = json.loads(encode_model(view, name) or b"")
    return found


async def states(models: ModelsList, view: View, key: ApiKey | None = None) -> Mapping[str, str]:
    """The states of the list, by name. Each object must equal that of `encode_model`."""
    listed = json.loads(await models.body(view, key))["data"]
    assert listed == [json.loads(encode_model(view, model["id"]) or b"") for model in listed]
    return {model["id"]: model["state"] for model in listed}


async def test_the_list_of_a_snapshot_is_encoded_once() -> None:
    view = views.view(views.snapshot(*(views.model(f"m{number}") for number in range(3000))))
    models = ModelsList()
    bodies = await asyncio.gather(*(models.body(view) for _ in range(10)))
    assert all(body is bodies[0] for body in bodies)
    assert len(json.loads(bodies[0])["data"]) == 3000


async def test_each_caller_gets_the_list_of_its_own_snapshot() -> None:
    models = ModelsList()
    first, second = views.snapshot(views.model("a")), views.snapshot(views.model("b"))
    bodies = await asyncio.gather(*(models.body(views.view(catalog)) for catalog in (first, second) * 5))
    assert [json.loads(body)["data"][0]["id"] for body in bodies] == ["a", "b"] * 5


async def test_the_list_follows_changes_of_the_entries_that_others_refer_to() -> None:
    models = ModelsList()
    short, long = (views.model("a", card={"contextWindow": window}) for window in (100, 200))
    others = (views.model("b"), views.adapter("a", "x"), views.route("r", {"models/a": 1}))
    catalogs = [(short, *others), (long, *others), (long, others[0]), (short, *others)]
    shown = [await states(models, views.view(views.snapshot(*entries))) for entries in catalogs]
    assert [len(listed) for listed in shown] == [4, 4, 2, 4]


async def test_unchanged_entries_are_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    models = ModelsList()
    same, adapter = [views.model(f"m{number}") for number in range(9)], views.adapter("m1", "x")
    await models.body(views.view(views.snapshot(*same, views.model("changed"), adapter)))
    encoded: list[str] = []
    encode = stateless_object

    def noted(snapshot: Snapshot, entry: Resource) -> ModelObject:
        encoded.append(entry.served_name)
        return encode(snapshot, entry)

    monkeypatch.setattr(models_list, "stateless_object", noted)
    later: list[Resource] = [*same, views.model("changed", number=2), adapter, views.model("new")]
    await models.body(views.view(views.snapshot(*later)))
    assert encoded == ["changed", "new"]


async def test_encoding_a_long_list_does_not_block_the_event_loop() -> None:
    catalog = views.snapshot(*(views.model(f"m{number}") for number in range(20_000)))
    longest = 0.0
    gc.collect()  # now, not during a turn: this process holds the objects of all earlier tests
    listing = asyncio.create_task(ModelsList().body(views.view(catalog)))
    while not listing.done():
        begun = time.thread_time()  # other processes on this machine do not count
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - begun)
    assert longest < 0.1


def test_no_path_of_weights_is_shown() -> None:
    entry = views.model("m")
    entry.revision.spec.source.uri = "file:///srv/secret/place"
    assert b"secret" not in (encode_model(views.view(views.snapshot(entry)), "m") or b"")


def test_the_context_window_is_that_of_the_card_or_else_of_the_args() -> None:
    def shown(entry: object) -> object:
        return json.loads(encode_model(views.view(views.snapshot(entry)), "m") or b"").get("max_model_len")  # type: ignore[arg-type]

    assert shown(views.model("m")) is None
    assert shown(views.model("m", args={"max-model-len": 5})) == 5
    assert shown(views.model("m", args={"max_model_len": "auto"})) is None
    assert shown(views.model("m", args={"max_model_len": 5}, card={"contextWindow": "9"})) == 9


def test_a_route_is_listed_with_the_smallest_window_of_its_targets() -> None:
    models = (views.model("a", card={"contextWindow": "9"}), views.model("b", card={"contextWindow": "5"}))
    targets = {"models/a": 1, "models/b/adapters/x": 1}
    catalog = views.snapshot(*models, views.adapter("b", "x"), views.route("r", targets, served_name="chat"))
    listed = shown(catalog, "chat")
    assert (listed["id"], listed["root"], listed["owned_by"]) == ("chat", "chat", "broadsheet")
    assert (listed["max_model_len"], listed["task"]) == (5, "generate")
    unlike = views.model("c", args={"convert": "embed"})
    unknown = shown(views.snapshot(*models, unlike, views.route("r", {"models/a": 1, "models/c": 1})), "r")
    assert not unknown.keys() & {"max_model_len", "task"}


@pytest.mark.parametrize(
    ("args", "capabilities", "task"),
    [
        ({}, [], "generate"),
        ({}, ["tools", "chat", "embeddings"], "generate"),
        ({"runner": "generate"}, ["vision"], "generate"),
        ({}, ["embeddings"], "embed"),
        ({}, ["rerank"], "score"),
        ({}, ["transcriptions"], "transcribe"),
        ({"runner": "pooling"}, [], "embed"),
        ({"convert": "embed"}, ["chat"], "embed"),
        ({"runner": "pooling", "convert": "embed"}, ["score"], "score"),
        ({"convert": "classify"}, [], "classify"),
        ({"convert": "classify"}, ["rerank"], "score"),
    ],
)
def test_the_task_is_that_of_the_engines_args_or_else_of_the_card(
    args: Mapping[str, object], capabilities: list[str], task: str
) -> None:
    entry = views.model("m", args=args, card={"capabilities": capabilities})
    catalog = views.snapshot(entry, views.adapter("m", "a"))
    assert (shown(catalog, "m")["task"], shown(catalog, "m:a")["task"]) == (task, task)


async def test_the_list_follows_the_states_of_models_adapters_and_routes() -> None:
    targets = {"models/a": 1, "models/b/adapters/x": 1, "models/c": 0}
    catalog = views.snapshot(
        *(views.model(name) for name in "abc"),
        *(views.adapter("b", "x"), views.route("r", targets), views.route("gone", {"models/quarantined": 1})),
    )
    models = ModelsList()
    idle = {"a": "IDLE", "b": "IDLE", "c": "IDLE", "b:x": "IDLE", "r": "IDLE", "gone": "QUARANTINED"}
    key = ApiKey.of(views.api_key("k", "bs-k", "b*", "r"))
    for sequence, (now, listed) in enumerate(
        [
            ({}, {}),
            ({"a": State.READY}, {"a": "READY"}),
            ({"a": State.READY, "b": State.DEPLOYING}, {"a": "READY", "b": "DEPLOYING", "r": "DEPLOYING"}),
            ({"a": State.READY, "b": State.READY}, {"a": "READY", "b": "READY", "r": "READY"}),
            ({"a": State.FAILED, "b": State.READY}, {"a": "FAILED", "b": "READY", "r": "FAILED"}),
            ({"c": State.FAILED, "b": State.IDLE}, {"c": "FAILED"}),
            ({}, {}),
        ]
    ):
        activations = {f"models/{name}": in_state(state) for name, state in now.items()}
        view = View(snapshot=catalog, activation=Activation(sequence=sequence, models=activations))
        expected = idle | listed
        expected["b:x"] = expected["b"]
        assert await states(models, view) == expected
        seen = {name: state for name, state in expected.items() if name in ("b", "b:x", "r")}
        assert await states(models, view, key) == seen


async def test_the_list_is_not_rebuilt_when_no_state_changes() -> None:
    catalog = views.snapshot(views.model("m"))
    models = ModelsList()
    ready = (views.ready("http://one"), views.ready("http://one", "http://two"))
    first, second = [await models.body(views.view(catalog, {"m": activation})) for activation in ready]
    assert first is second
    assert b'"state":"READY"' in first


async def test_a_key_that_sees_nothing_gets_an_empty_list() -> None:
    key = ApiKey.of(views.api_key("k", "bs-k", "other"))
    assert await ModelsList().body(views.view(views.snapshot(views.model("m"))), key) == b'{"object":"list","data":[]}'
