"""Which request is granted, waits or is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from dataplane.ingress.admission.load import Lease
from dataplane.openai import errors as openai_errors
from dataplane.snapshot.activation import ModelActivation, State
from tests import views
from tests.unit.dataplane.ingress.admission.desk import CATALOG, DEPLOYING, FAILED, IDLE, Desk, cancel, limited, settle


async def test_without_a_view_every_request_is_refused() -> None:
    with pytest.raises(openai_errors.NotReady):
        await Desk().acquire("m")


async def test_a_request_for_an_unknown_resource_is_refused_and_leaves_no_trace() -> None:
    desk = Desk()
    desk.show(CATALOG)
    with pytest.raises(openai_errors.NotServedHere):
        await desk.acquire("nobody")
    assert desk.admission.usage() == {}
    assert desk.woken == []


async def test_a_failed_model_refuses_at_once_with_its_reason() -> None:
    desk = Desk()
    desk.show(CATALOG, m=FAILED)
    with pytest.raises(openai_errors.ModelFailed, match="OUT_OF_MEMORY: too big") as raised:
        await desk.acquire("m")
    assert raised.value.retry_after_s == 4


async def test_waiting_requests_are_refused_when_the_start_fails() -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    task = await desk.ask()
    desk.show(CATALOG, m=FAILED)
    with pytest.raises(openai_errors.ModelFailed):
        await task
    assert desk.admission.waiting() == 0


async def test_a_request_beyond_the_queue_limit_is_refused() -> None:
    desk = Desk()
    desk.show(limited(maxQueuedRequests=2))
    waiting = [await desk.ask() for _ in range(2)]
    with pytest.raises(openai_errors.QueueFull, match="2 requests"):
        await desk.acquire("m:a")
    await cancel(waiting[0])
    third = await desk.ask()
    assert not third.done()
    await cancel(waiting[1])
    await cancel(third)


async def test_a_start_beyond_the_deadline_refuses_the_request() -> None:
    desk = Desk()
    desk.show(limited(coldStartTimeout="0.02s"), m=DEPLOYING)
    with pytest.raises(openai_errors.ColdStartTimeout):
        await desk.acquire("m")
    assert desk.admission.usage()["models/m"].in_flight == 0


async def test_views_that_change_nothing_do_not_extend_the_deadline() -> None:
    desk = Desk()
    catalog = limited(coldStartTimeout="0.05s")
    desk.show(catalog, m=DEPLOYING)
    task = await desk.ask()
    for number in range(20):
        await asyncio.sleep(0.01)
        desk.show(catalog, m=ModelActivation(state=State.DEPLOYING, revision_number=number))
        if task.done():
            break
    with pytest.raises(openai_errors.ColdStartTimeout):
        await task


async def test_alternating_between_start_and_room_does_not_extend_the_deadline() -> None:
    desk = Desk()
    catalog = limited(coldStartTimeout="0.05s", queueTimeout="60s", maxOngoingRequests=1)
    desk.show(catalog, m=views.ready("http://a"))
    blocker = await desk.acquire("m")
    task = await desk.ask()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not task.done() and loop.time() - begun < 1:
        desk.show(catalog, m=DEPLOYING)
        await asyncio.sleep(0.01)
        desk.show(catalog, m=views.ready("http://a"))
        await asyncio.sleep(0)
    with pytest.raises(openai_errors.ColdStartTimeout):
        await task
    desk.admission.release(blocker)


async def test_a_request_without_room_is_refused_at_its_deadline() -> None:
    desk = Desk()
    desk.show(limited(maxOngoingRequests=1, queueTimeout="0.02s"), m=views.ready("http://a"))
    with await desk.acquire("m"), pytest.raises(openai_errors.Overloaded):
        await desk.acquire("m")


async def test_room_given_back_goes_to_the_oldest_waiting_request() -> None:
    desk = Desk()
    desk.show(limited(maxOngoingRequests=1), m=views.ready("http://a"))
    first = await desk.acquire("m")
    second, third = await desk.ask(), await desk.ask()
    desk.admission.release(first)
    newcomer = await desk.ask()
    assert (second.done(), third.done(), newcomer.done()) == (True, False, False)
    desk.admission.release(await second)
    desk.admission.release(await third)
    desk.admission.release(await newcomer)
    assert desk.admission.in_flight() == 0


async def test_a_waiting_request_gets_the_view_that_grants_it() -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    task = await desk.ask("m:a")
    newer = views.snapshot(views.model("m", number=2), views.adapter("m", "a", digest=b"\x02" * 32), revision=8)
    view = desk.show(newer, m=views.ready("http://b", number=2))
    lease = await task
    assert lease.view is view
    assert lease.route.model_revision_name == "models/m/revisions/2"
    assert lease.route.adapter is not None
    assert lease.route.adapter.revision.weights.digest == b"\x02" * 32


@pytest.mark.parametrize("name", ["m", "m:a"])
async def test_a_waiting_request_is_refused_when_its_resource_is_removed(name: str) -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    task = await desk.ask(name)
    desk.show(views.snapshot(views.model("other"), *([views.model("m")] if name == "m:a" else []), revision=8))
    with pytest.raises(openai_errors.NotServedHere):
        await task
    if name == "m":
        assert "models/m" not in desk.admission.usage()


async def test_a_cancelled_request_leaves_the_queue() -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    task = await desk.ask()
    await cancel(task)
    assert desk.admission.usage()["models/m"].in_flight == 0
    desk.show(CATALOG, m=views.ready("http://a"))
    assert desk.admission.in_flight() == 0


async def test_a_request_cancelled_just_after_its_grant_gives_the_room_back() -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    task = await desk.ask()
    desk.show(CATALOG, m=views.ready("http://a"))
    assert desk.admission.in_flight() == 1
    await cancel(task)
    assert desk.admission.in_flight() == 0


async def test_a_request_cancelled_just_before_its_grant_takes_no_room() -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    task = await desk.ask()
    task.cancel()
    desk.show(CATALOG, m=views.ready("http://a"))
    assert desk.admission.in_flight() == 0
    with pytest.raises(asyncio.CancelledError):
        await task
    assert desk.admission.waiting() == 0


async def test_shutting_down_refuses_waiting_requests() -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    tasks = [await desk.ask() for _ in range(3)]
    desk.admission.refuse_waiting()
    for task in tasks:
        with pytest.raises(openai_errors.ShuttingDown):
            await task


async def test_a_thousand_waiting_requests_cost_little_per_view() -> None:
    desk = Desk()
    catalog = views.snapshot(views.model("m", admission={"maxQueuedRequests": 5000}), views.model("other"))
    desk.show(catalog, m=DEPLOYING)
    tasks = [asyncio.create_task(desk.acquire("m")) for _ in range(1000)]
    await settle()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number in range(100):
        desk.show(catalog, m=DEPLOYING, other=ModelActivation(state=State.READY, revision_number=number))
    assert loop.time() - begun < 0.5
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert desk.admission.waiting() == 0


async def test_counts_return_to_zero_after_random_events() -> None:
    """Random arrivals, departures, cancellations and views."""
    desk = Desk()
    catalog = limited(maxOngoingRequests=2, maxQueuedRequests=10, queueTimeout="60s")
    draw = Random(42)
    states: list[Callable[[], ModelActivation]] = [
        lambda: DEPLOYING,
        lambda: IDLE,
        lambda: views.ready("http://a"),
        lambda: views.ready("http://a", "http://b", application="app-2"),
    ]
    desk.show(catalog)
    tasks: list[asyncio.Task[Lease]] = []
    held: list[Lease] = []
    for _ in range(3000):
        what = draw.randrange(5)
        if what == 0:
            desk.show(catalog, m=draw.choice(states)())
        elif what == 1 and held:
            desk.admission.release(held.pop(draw.randrange(len(held))))
        elif what == 2 and tasks:
            tasks.pop(draw.randrange(len(tasks))).cancel()
        else:
            tasks.append(asyncio.create_task(desk.acquire(draw.choice(["m", "m:a"]))))
        if draw.random() < 0.5:
            await settle()
        for task in [task for task in tasks if task.done()]:
            tasks.remove(task)
            if task.exception() is None:
                held.append(task.result())
            else:
                assert isinstance(task.exception(), openai_errors.QueueFull)
        usage = desk.admission.usage().get("models/m")
        assert usage is None or usage.waiting <= 10
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for lease in held:
        desk.admission.release(lease)
    assert desk.admission.in_flight() == 0
    assert desk.admission.waiting() == 0
    assert desk.admission.applications_in_use() == {}
