"""Requests for routes: targets, fallbacks, and response headers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from dataplane.ingress.limits import IngressSettings
from dataplane.snapshot.activation import ModelActivation, State
from dataplane.snapshot.snapshot import Message, Snapshot
from tests import views
from tests.stream.ingress_world import Recorder, World, ready, until, unused_url

CHAT = "/v1/chat/completions"
FAILED = ModelActivation(state=State.FAILED, revision_number=1, reason="OUT_OF_MEMORY", message="too big")
DEPLOYING = ModelActivation(state=State.DEPLOYING, revision_number=1)
UNAVAILABLE, FULL = ["UNAVAILABLE"], ["QUEUE_FULL"]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings())
        yield world


def ask(model: str = "chat", **fields: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "ahoy"}], **fields}


def catalog(route: Message, **admission: object) -> Snapshot:
    return views.snapshot(views.model("a", admission=admission), views.model("b"), views.adapter("b", "x"), route)


async def test_a_route_answers_under_its_own_name_and_headers_name_the_revision(world: World) -> None:
    _, url = await world.engine()
    world.show(catalog(views.route("r", {"models/a": 1}, served_name="chat")), a=ready(url, number=3))
    answer = await world.post(CHAT, ask())
    assert answer.status == 200
    assert json.loads(answer.body)["model"] == "chat"
    assert answer.headers["x-broadsheet-model"] == "models/a/revisions/3"
    assert answer.headers["x-broadsheet-route"] == "routes/r"
    streamed = await world.post(CHAT, ask(stream=True))
    assert b'"model":"chat"' in streamed.body
    direct = await world.post(CHAT, ask("a"))
    assert "x-broadsheet-route" not in direct.headers


async def test_requests_are_split_by_weight(world: World) -> None:
    engines = {name: Recorder() for name in "ab"}
    urls = {name: await world.serve(engine) for name, engine in engines.items()}
    route = views.route("chat", {"models/a": 3, "models/b": 1})
    world.show(catalog(route), a=ready(urls["a"]), b=ready(urls["b"]))
    for _ in range(200):
        assert (await world.post(CHAT, ask())).status == 200
    assert 25 < len(engines["b"].requests) < 75


@pytest.mark.parametrize("by", ["user", "header"])
async def test_a_caller_stays_at_one_target(world: World, by: str) -> None:
    _, first = await world.engine()
    _, second = await world.engine()
    sticky: dict[str, object] = {"user": True} if by == "user" else {"header": "x-team"}
    route = views.route("chat", {"models/a": 1, "models/b": 1}, sticky=sticky)
    world.show(catalog(route), a=ready(first), b=ready(second))
    met: Counter[str] = Counter()
    for caller in range(12):
        seen = set()
        for _ in range(4):
            body = ask(user=f"u{caller}") if by == "user" else ask()
            answer = await world.post(CHAT, body, headers={"X-Team": f"u{caller}"} if by == "header" else None)
            seen.add(answer.headers["x-broadsheet-model"])
        assert len(seen) == 1
        met.update(seen)
    assert len(met) == 2


async def test_an_adapter_and_a_pinned_revision_are_targets(world: World) -> None:
    engine = Recorder()
    url = await world.serve(engine)
    adapter_route = views.route("chat", {"models/b/adapters/x": 1})
    pin = views.pinned(views.model("a", number=4))
    world.show(
        views.snapshot(
            views.model("a", number=9),
            views.model("b"),
            views.adapter("b", "x"),
            adapter_route,
            pin,
            views.route("old", {"models/a/revisions/4": 1}),
        ),
        **{"a": FAILED, "a/revisions/4": ready(url, number=4), "b": ready(url)},
    )
    assert (await world.post(CHAT, ask())).status == 200
    assert engine.requests[0].header(b"x-broadsheet-adapter") is not None
    assert engine.requests[0].header(b"x-broadsheet-served-name") == b"chat"
    old = await world.post(CHAT, ask("old"))
    assert (old.status, old.headers["x-broadsheet-model"]) == (200, "models/a/revisions/4")


async def test_an_idle_pinned_revision_is_woken_by_its_own_name(world: World) -> None:
    pin = views.pinned(views.model("a", number=4))
    shown = views.snapshot(views.model("a", number=9), pin, views.route("old", {"models/a/revisions/4": 1}))
    _, url = await world.engine()
    world.show(shown, a=ready(unused_url()))
    asked = asyncio.create_task(world.post(CHAT, ask("old")))
    await until(lambda: world.woken == ["models/a/revisions/4"])
    world.show(shown, **{"a/revisions/4": ready(url, number=4)})
    assert (await asked).status == 200


async def test_a_failed_target_falls_back_at_once(world: World) -> None:
    _, url = await world.engine()
    route = views.route("chat", {"models/a": 1}, fallbacks={"models/b": UNAVAILABLE})
    world.show(catalog(route), a=FAILED, b=ready(url))
    answer = await world.post(CHAT, ask())
    assert (answer.status, answer.headers["x-broadsheet-model"]) == (200, "models/b/revisions/1")
    assert "broadsheet_ingress_route_fallbacks_total{" in (metrics := (await world.get("/metrics")).body.decode())
    assert 'route_fallbacks_total{replica="' in metrics


async def test_a_target_without_reachable_replicas_falls_back(world: World) -> None:
    _, url = await world.engine()
    route = views.route("chat", {"models/a": 1}, fallbacks={"models/b": UNAVAILABLE})
    world.show(catalog(route), a=ready(unused_url()), b=ready(url))
    answer = await world.post(CHAT, ask(stream=True))
    assert (answer.status, answer.headers["x-broadsheet-model"]) == (200, "models/b/revisions/1")


async def test_a_quarantined_target_falls_back(world: World) -> None:
    _, url = await world.engine()
    route = views.route("chat", {"models/gone": 1}, fallbacks={"models/b": UNAVAILABLE})
    world.show(catalog(route), b=ready(url))
    assert (await world.post(CHAT, ask())).headers["x-broadsheet-model"] == "models/b/revisions/1"


async def test_a_full_target_falls_back_only_on_the_condition_queue_full(world: World) -> None:
    _, url = await world.engine()
    fallbacks = {"models/a/adapters/none": UNAVAILABLE, "models/b": FULL}
    route = views.route("chat", {"models/a": 1}, fallbacks=fallbacks)
    world.show(catalog(route, maxQueuedRequests=0), a=DEPLOYING, b=ready(url))
    assert (await world.post(CHAT, ask())).headers["x-broadsheet-model"] == "models/b/revisions/1"
    unavailable_only = views.route("chat", {"models/a": 1}, fallbacks={"models/b": UNAVAILABLE})
    world.show(catalog(unavailable_only, maxQueuedRequests=0), a=DEPLOYING, b=ready(url))
    answer = await world.post(CHAT, ask())
    assert (answer.status, answer.code) == (503, "queue_full")


async def test_without_an_answer_the_caller_gets_the_targets_refusal_and_no_inner_name(world: World) -> None:
    route = views.route("chat", {"models/a": 1}, fallbacks={"models/b": UNAVAILABLE})
    dead = ready(unused_url())
    world.show(catalog(route), a=FAILED, b=dead)
    answer = await world.post(CHAT, ask())
    assert (answer.status, answer.code) == (503, "model_failed")
    assert "`chat`" in answer.message
    assert "models/" not in answer.message
    assert answer.headers["x-broadsheet-route"] == "routes/chat"


async def test_an_error_of_the_engine_itself_does_not_fall_back(world: World) -> None:
    _, url = await world.engine()
    recorder = Recorder()
    route = views.route("chat", {"models/a": 1}, fallbacks={"models/b": UNAVAILABLE})
    world.show(catalog(route), a=ready(url), b=ready(await world.serve(recorder)))
    answer = await world.post(CHAT, {"model": "chat", "messages": "no list"})
    assert answer.status == 400
    assert recorder.requests == []


async def test_a_route_is_resolved_again_when_its_target_leaves_the_catalog(world: World) -> None:
    _, url = await world.engine()
    world.show(catalog(views.route("chat", {"models/a": 1})), a=DEPLOYING)
    asked = asyncio.create_task(world.post(CHAT, ask()))
    await until(lambda: world.app.usage().get("models/a") is not None and world.app.usage()["models/a"].waiting == 1)
    changed = views.snapshot(views.model("b"), views.route("chat", {"models/b": 1}), revision=8)
    world.show(changed, b=ready(url))
    answer = await asked
    assert (answer.status, answer.headers["x-broadsheet-model"]) == (200, "models/b/revisions/1")


async def test_a_waiting_request_follows_its_name_to_another_model(world: World) -> None:
    _, url = await world.engine()
    world.show(views.snapshot(views.model("m")), m=DEPLOYING)
    asked = [asyncio.create_task(world.post(CHAT, ask("m"))) for _ in range(2)]
    await until(lambda: world.app.usage().get("models/m") is not None and world.app.usage()["models/m"].waiting == 2)
    world.show(views.snapshot(views.model("other", served_name="m"), revision=8), other=ready(url))
    assert [(await item).headers["x-broadsheet-model"] for item in asked] == ["models/other/revisions/1"] * 2


async def test_a_name_removed_while_a_request_waits_is_not_found(world: World) -> None:
    world.show(views.snapshot(views.model("m")), m=DEPLOYING)
    asked = asyncio.create_task(world.post(CHAT, ask("m")))
    await until(lambda: world.app.usage().get("models/m") is not None and world.app.usage()["models/m"].waiting == 1)
    world.show(views.snapshot(views.model("other"), revision=8))
    answer = await asked
    assert (answer.status, answer.code) == (404, "model_not_found")


async def test_a_candidate_gets_its_share_and_no_request_is_lost_when_it_fails(world: World) -> None:
    _, old = await world.engine()
    _, new = await world.engine()
    rolling = views.snapshot(views.with_candidate(views.model("m"), views.model("m", number=2), 40))
    world.show(rolling, **{"m": ready(old), "m/revisions/2": ready(new, number=2)})
    met = Counter([(await world.post(CHAT, ask("m"))).headers["x-broadsheet-model"] for _ in range(100)])
    assert 20 < met["models/m/revisions/2"] < 60
    assert met.total() == met["models/m/revisions/1"] + met["models/m/revisions/2"]
    for broken in (FAILED, ready(unused_url(), number=2)):
        world.show(rolling, **{"m": ready(old), "m/revisions/2": broken})
        answers = [await world.post(CHAT, ask("m")) for _ in range(20)]
        assert {answer.headers["x-broadsheet-model"] for answer in answers} == {"models/m/revisions/1"}


async def test_listing_routes_wakes_no_model(world: World) -> None:
    world.show(catalog(views.route("r", {"models/a": 1}, served_name="chat")))
    listed = json.loads((await world.get("/v1/models")).body)["data"]
    assert [item["id"] for item in listed] == ["a", "b", "b:x", "chat"]
    assert json.loads((await world.get("/v1/models/chat")).body)["root"] == "chat"
    assert world.woken == []
