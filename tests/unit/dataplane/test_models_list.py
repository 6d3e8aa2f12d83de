from __future__ import annotations

import asyncio
import json

from dataplane.models_list import ModelsList, encode_model
from tests import views


async def test_the_list_of_a_snapshot_is_encoded_once() -> None:
    catalog = views.snapshot(*(views.model(f"m{number}") for number in range(3000)))
    models = ModelsList()
    bodies = await asyncio.gather(*(models.body(catalog) for _ in range(10)))
    assert all(body is bodies[0] for body in bodies)
    assert len(json.loads(bodies[0])["data"]) == 3000


async def test_each_caller_gets_the_list_of_its_own_snapshot() -> None:
    models = ModelsList()
    first, second = views.snapshot(views.model("a")), views.snapshot(views.model("b"))
    bodies = await asyncio.gather(*(models.body(catalog) for catalog in (first, second) * 5))
    assert [json.loads(body)["data"][0]["id"] for body in bodies] == ["a", "b"] * 5


async def test_a_long_list_leaves_others_their_turn() -> None:
    catalog = views.snapshot(*(views.model(f"m{number}") for number in range(20_000)))
    loop = asyncio.get_running_loop()
    longest = 0.0
    listing = asyncio.create_task(ModelsList().body(catalog))
    while not listing.done():
        begun = loop.time()
        await asyncio.sleep(0)
        longest = max(longest, loop.time() - begun)
    assert longest < 0.1


def test_no_path_of_the_weights_is_shown() -> None:
    entry = views.model("m")
    entry.revision.spec.source.uri = "file:///srv/secret/place"
    assert b"secret" not in (encode_model(views.snapshot(entry), "m") or b"")


def test_a_window_is_taken_from_the_card_or_else_from_the_args() -> None:
    def shown(entry: object) -> object:
        return json.loads(encode_model(views.snapshot(entry), "m") or b"").get("max_model_len")  # type: ignore[arg-type]

    assert shown(views.model("m")) is None
    assert shown(views.model("m", args={"max-model-len": 5})) == 5
    assert shown(views.model("m", args={"max_model_len": "auto"})) is None
    assert shown(views.model("m", args={"max_model_len": 5}, card={"contextWindow": "9"})) == 9


def test_a_route_is_listed_with_what_fits_into_each_of_its_targets() -> None:
    models = (views.model("a", card={"contextWindow": "9"}), views.model("b", card={"contextWindow": "5"}))
    targets = {"models/a": 1, "models/b/adapters/x": 1}
    catalog = views.snapshot(*models, views.adapter("b", "x"), views.route("r", targets, served_name="chat"))
    shown = json.loads(encode_model(catalog, "chat") or b"")
    assert (shown["id"], shown["root"], shown["owned_by"]) == ("chat", "chat", "modelplane")
    assert shown["max_model_len"] == 5
    unknown = views.snapshot(*models, views.model("c"), views.route("r", {"models/a": 1, "models/c": 1}))
    assert "max_model_len" not in json.loads(encode_model(unknown, "r") or b"")
