"""Requests that have to wait: for a model to start, or for room."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from dataplane.ingress.limits import IngressSettings
from dataplane.snapshot.activation import ModelActivation, State
from dataplane.snapshot.snapshot import Snapshot
from tests import views
from tests.stream.ingress_world import Answer, World, ready, until

CHAT = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "ahoy"}]}
DEPLOYING = ModelActivation(state=State.DEPLOYING, revision_number=1)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings())
        yield world


def catalog(**admission: object) -> Snapshot:
    return views.snapshot(views.model("m", admission=admission), views.adapter("m", "a"))


async def test_a_request_to_an_idle_model_wakes_it_and_is_answered(world: World) -> None:
    _, url = await world.engine()
    world.show(catalog())
    asked = asyncio.create_task(world.post(CHAT, ASK))
    await until(lambda: world.woken == ["models/m"])
    assert world.waiting() == 1
    world.show(catalog(), m=DEPLOYING)
    assert not asked.done()
    world.show(catalog(), m=ready(url))
    answer = await asked
    assert answer.status == 200
    assert answer.headers["x-broadsheet-model"] == "models/m/revisions/1"
    assert world.app.usage()["models/m"].in_flight == 0
    noted = world.app.usage()["models/m"].first_byte
    assert noted is not None
    assert noted.seconds > 0
    await world.post(CHAT, ASK)
    assert world.app.usage()["models/m"].first_byte == noted, "a request that did not wait must not be noted"


async def test_other_models_answer_while_one_starts(world: World) -> None:
    _, url = await world.engine()
    both = views.snapshot(views.model("m"), views.model("n"))
    world.show(both, m=DEPLOYING, n=ready(url))
    asked = asyncio.create_task(world.post(CHAT, ASK))
    await until(lambda: world.waiting() == 1)
    assert (await world.post(CHAT, ASK | {"model": "n"})).status == 200
    assert not asked.done()
    asked.cancel()


async def test_a_failed_model_answers_at_once_with_the_engines_reason(world: World) -> None:
    message = "ValueError: no file /srv/models/m/config.json at 10.0.0.1:80"
    failed = ModelActivation(
        state=State.FAILED, revision_number=1, reason="SOURCE_NOT_FOUND", message=message, retry_after_s=12.1
    )
    world.show(catalog(), m=failed)
    begun = time.monotonic()
    answer = await world.post(CHAT, ASK)
    assert time.monotonic() - begun < 1
    assert (answer.status, answer.code) == (503, "model_failed")
    assert "SOURCE_NOT_FOUND: ValueError: no file <path> at <address>" in answer.message
    assert answer.headers["retry-after"] == "13"
    assert b"/srv" not in answer.body


async def test_waiting_requests_are_answered_when_the_start_fails(world: World) -> None:
    world.show(catalog(), m=DEPLOYING)
    asked = [asyncio.create_task(world.post(CHAT, ASK)) for _ in range(5)]
    await until(lambda: world.waiting() == 5)
    world.show(catalog(), m=ModelActivation(state=State.FAILED, revision_number=1, reason="OUT_OF_MEMORY"))
    assert {answer.code for answer in await asyncio.gather(*asked)} == {"model_failed"}


async def test_a_full_queue_refuses_the_next_request(world: World) -> None:
    _, url = await world.engine()
    world.show(catalog(maxQueuedRequests=2))
    asked = [asyncio.create_task(world.post(CHAT, ASK)) for _ in range(2)]
    await until(lambda: world.waiting() == 2)
    answer = await world.post(CHAT, ASK)
    assert (answer.status, answer.code) == (503, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
    world.show(catalog(maxQueuedRequests=2), m=ready(url))
    assert {answer.status for answer in await asyncio.gather(*asked)} == {200}


async def test_a_request_is_refused_when_the_start_takes_too_long(world: World) -> None:
    world.show(catalog(coldStartTimeout="0.05s"))
    answer = await world.post(CHAT, ASK)
    assert (answer.status, answer.code) == (503, "cold_start_timeout")
    assert "retry-after" in answer.headers
    assert "x-broadsheet-model" not in answer.headers


async def test_a_request_without_room_in_time_is_refused_as_overloaded(world: World) -> None:
    engine, url = await world.engine(hang=True)
    world.show(catalog(maxOngoingRequests=1, queueTimeout="0.05s"), m=ready(url))
    first = asyncio.create_task(world.post(CHAT, ASK))
    await until(lambda: engine.counters.in_flight == 1)
    answer = await world.post(CHAT, ASK)
    assert (answer.status, answer.code) == (503, "overloaded")
    assert "retry-after" in answer.headers
    first.cancel()


async def test_requests_at_an_engine_are_limited_and_all_are_answered(world: World) -> None:
    engine, url = await world.engine(time_to_first_token_s=0.01)
    most = 0

    def note(answers: list[asyncio.Task[Answer]]) -> bool:
        nonlocal most
        most = max(most, engine.counters.in_flight)
        return all(answer.done() for answer in answers)

    world.show(catalog(maxOngoingRequests=3), m=ready(url))
    answers = [asyncio.create_task(world.post(CHAT, ASK)) for _ in range(30)]
    await until(lambda: note(answers))
    assert most == 3
    assert {answer.result().status for answer in answers} == {200}
    assert engine.counters.requests == 30


async def test_a_model_deleted_while_a_request_waits_is_not_found(world: World) -> None:
    world.show(catalog(), m=DEPLOYING)
    asked = asyncio.create_task(world.post(CHAT, ASK | {"model": "m:a"}))
    await until(lambda: world.waiting() == 1)
    world.show(views.snapshot(views.model("m"), revision=8), m=DEPLOYING)
    answer = await asked
    assert (answer.status, answer.code) == (404, "model_not_found")
    assert world.waiting() == 0


async def test_a_waiting_request_is_decided_by_the_view_that_ends_its_wait(world: World) -> None:
    _, url = await world.engine()
    world.show(catalog(), m=DEPLOYING)
    asked = asyncio.create_task(world.post(CHAT, ASK))
    await until(lambda: world.waiting() == 1)
    world.show(views.snapshot(views.model("m", number=2), revision=8), m=ready(url, number=2))
    answer = await asked
    assert answer.headers["x-broadsheet-revision"] == "8"
    assert answer.headers["x-broadsheet-model"] == "models/m/revisions/2"


async def test_a_client_that_disconnects_while_waiting_leaves_the_queue(world: World) -> None:
    world.show(catalog(maxQueuedRequests=1))
    asked = asyncio.create_task(world.post(CHAT, ASK))
    await until(lambda: world.waiting() == 1)
    asked.cancel()
    await until(lambda: world.waiting() == 0)
    assert world.app.usage()["models/m"].in_flight == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_disconnects_stops_the_engine(world: World, stream: bool) -> None:
    args: dict[str, object] = {"tokens_per_second": 5} if stream else {"hang": True}
    engine, url = await world.engine(**args)
    world.show(catalog(maxOngoingRequests=1), m=ready(url))
    asked = asyncio.create_task(world.post(CHAT, ASK | {"stream": stream}))
    await until(lambda: engine.counters.in_flight == 1)
    await asyncio.sleep(0.1)
    asked.cancel()
    await until(lambda: engine.counters.cancelled == 1)
    await until(lambda: world.app.usage()["models/m"].in_flight == 0)
    assert engine.counters.in_flight == 0
    assert world.app.applications_in_use() == {}


async def test_no_task_outlives_its_request(world: World) -> None:
    _, url = await world.engine()
    world.show(catalog(), m=ready(url))
    await world.post(CHAT, ASK)
    before = len(asyncio.all_tasks())
    for _ in range(50):
        await world.post(CHAT, ASK | {"stream": True})
    await asyncio.sleep(0.05)
    assert len(asyncio.all_tasks()) <= before


async def test_draining_refuses_waiting_requests_and_lets_others_end(world: World) -> None:
    engine, url = await world.engine(time_to_first_token_s=0.2)
    both = views.snapshot(views.model("m"), views.model("n"))
    world.show(both, m=DEPLOYING, n=ready(url))
    held = asyncio.create_task(world.post(CHAT, ASK))
    running = asyncio.create_task(world.post(CHAT, ASK | {"model": "n"}))
    await until(lambda: world.waiting() == 1 and engine.counters.in_flight == 1)
    closing = asyncio.create_task(world.app.aclose())
    assert (await held).code == "shutting_down"
    assert (await world.get("/readyz")).status == 503
    assert (await world.get("/healthz")).status == 200
    refused = await world.post(CHAT, ASK)
    assert (refused.code, refused.headers["connection"]) == ("shutting_down", "close")
    assert not closing.done()
    assert (await running).status == 200
    await closing
