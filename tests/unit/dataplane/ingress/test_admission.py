from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from random import Random

import pytest

from dataplane.ingress.admission import Admission, Lease, ModelUsage
from dataplane.ingress.view_holder import ViewHolder
from dataplane.openai import errors as openai_errors
from dataplane.relay.messages import FirstByte
from dataplane.snapshot.activation import ModelActivation, State, View
from dataplane.snapshot.snapshot import Snapshot
from tests import views

DEPLOYING = ModelActivation(state=State.DEPLOYING, revision_number=1)
IDLE = ModelActivation(state=State.IDLE, revision_number=1)
FAILED = ModelActivation(
    state=State.FAILED, revision_number=1, reason="OUT_OF_MEMORY", message="too big", retry_after_s=4
)
CATALOG = views.snapshot(views.model("m"), views.adapter("m", "a"), views.model("other"))


def limited(**admission: object) -> Snapshot:
    return views.snapshot(views.model("m", admission=admission), views.adapter("m", "a"))


@dataclass
class Desk:
    """An admission with a clock of its own."""

    views: ViewHolder = field(default_factory=ViewHolder)
    woken: list[str] = field(default_factory=list)
    now: float = 100.0

    def __post_init__(self) -> None:
        self.admission = Admission(views=self.views, wake=self.woken.append, random=Random(0), clock=lambda: self.now)
        self.views.subscribe(self.admission.on_view)

    def show(self, catalog: Snapshot, **activations: ModelActivation) -> View:
        view = views.view(catalog, activations)
        self.views.swap(view)
        return view

    async def acquire(self, name: str, *, avoid: Container[str] = ()) -> Lease:
        """A request for a model `m` or an adapter `m:a` by its default served name."""
        model_id, _, adapter_id = name.partition(":")
        resource = f"models/{model_id}/adapters/{adapter_id}" if adapter_id else f"models/{model_id}"
        return await self.admission.acquire(resource, name, avoid=avoid)

    async def ask(self, name: str = "m") -> asyncio.Task[Lease]:
        """A request, as far as it gets at once."""
        task = asyncio.create_task(self.acquire(name))
        await settle()
        return task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def cancel(task: asyncio.Task[Lease]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_without_a_view_nothing_is_let_in() -> None:
    with pytest.raises(openai_errors.NotReady):
        await Desk().acquire("m")


async def test_what_is_not_served_is_refused_and_leaves_no_trace() -> None:
    desk = Desk()
    desk.show(CATALOG)
    with pytest.raises(openai_errors.NotServedHere):
        await desk.acquire("nobody")
    assert desk.admission.usage() == {}
    assert desk.woken == []


async def test_a_ready_model_is_let_in_at_once_and_counted() -> None:
    desk = Desk()
    view = desk.show(CATALOG, m=views.ready("http://a", application="app-m"))
    with await desk.acquire("m:a") as lease:
        assert lease.endpoint.url == "http://a"
        assert lease.view is view
        assert desk.admission.usage() == {"models/m": ModelUsage(in_flight=1, waiting=0, last_request_at=100.0)}
        assert desk.admission.applications_in_use() == {"app-m": 1}
        desk.now = 150.0
    assert desk.admission.usage() == {"models/m": ModelUsage(in_flight=0, waiting=0, last_request_at=150.0)}
    assert desk.admission.applications_in_use() == {}


@pytest.mark.parametrize("activation", [None, IDLE])
async def test_an_idle_model_is_woken_once_for_many_requests(activation: ModelActivation | None) -> None:
    desk = Desk()
    desk.show(CATALOG, **({"m": activation} if activation else {}))
    tasks = [await desk.ask() for _ in range(50)]
    assert desk.woken == ["models/m"]
    assert desk.admission.usage()["models/m"] == ModelUsage(in_flight=50, waiting=50, last_request_at=100.0)
    desk.show(CATALOG, m=DEPLOYING)
    desk.show(CATALOG, m=views.ready("http://a"))
    assert len(await asyncio.gather(*tasks)) == 50
    assert desk.woken == ["models/m"]
    assert desk.admission.waiting() == 0


async def test_the_longest_wait_for_a_start_is_kept_until_the_next_start() -> None:
    desk = Desk()
    desk.show(CATALOG)
    tasks = [await desk.ask() for _ in range(2)]
    desk.show(CATALOG, m=views.ready("http://a"))
    first, second = await asyncio.gather(*tasks)
    assert first.waited_for_start
    assert second.waited_for_start
    desk.admission.note_first_byte(first, 40.0)
    desk.admission.note_first_byte(second, 39.0)
    known = desk.admission.usage()["models/m"].first_byte
    assert known == FirstByte(replica_id=first.endpoint.replica_id, seconds=40.0)
    later = await desk.acquire("m")
    assert not later.waited_for_start
    desk.show(CATALOG)
    task = await desk.ask()
    desk.show(CATALOG, m=views.ready("http://b"))
    again = await task
    desk.admission.note_first_byte(again, 3.0)
    known = desk.admission.usage()["models/m"].first_byte
    assert known == FirstByte(replica_id=again.endpoint.replica_id, seconds=3.0)


async def test_a_model_that_is_being_started_is_not_woken() -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    task = await desk.ask()
    assert desk.woken == []
    await cancel(task)


async def test_a_lost_wake_is_repeated_while_requests_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.ingress.admission._REWAKE_INTERVAL_S", 0.02)
    monkeypatch.setattr("dataplane.ingress.admission._WAKE_INTERVAL_S", 0.01)
    desk = Desk()
    desk.show(CATALOG)
    task = await desk.ask()
    await asyncio.sleep(0.1)
    assert len(desk.woken) >= 3
    await cancel(task)
    await asyncio.sleep(0.03)
    count = len(desk.woken)
    await asyncio.sleep(0.06)
    assert len(desk.woken) == count


async def test_a_model_whose_queue_holds_none_is_still_woken() -> None:
    desk = Desk()
    desk.show(limited(maxQueuedRequests=0))
    with pytest.raises(openai_errors.QueueFull):
        await desk.acquire("m")
    assert desk.woken == ["models/m"]


async def test_a_failed_model_refuses_at_once_with_its_reason() -> None:
    desk = Desk()
    desk.show(CATALOG, m=FAILED)
    with pytest.raises(openai_errors.ModelFailed, match="OUT_OF_MEMORY: too big") as raised:
        await desk.acquire("m")
    assert raised.value.retry_after_s == 4


async def test_those_who_wait_are_refused_when_the_start_fails() -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    task = await desk.ask()
    desk.show(CATALOG, m=FAILED)
    with pytest.raises(openai_errors.ModelFailed):
        await task
    assert desk.admission.waiting() == 0


async def test_one_more_than_may_wait_is_refused() -> None:
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


async def test_a_start_that_takes_too_long_is_given_up() -> None:
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


async def test_going_back_and_forth_does_not_add_up_deadlines() -> None:
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


async def test_no_room_is_waited_for_and_then_given_up() -> None:
    desk = Desk()
    desk.show(limited(maxOngoingRequests=1, queueTimeout="0.02s"), m=views.ready("http://a"))
    with await desk.acquire("m"), pytest.raises(openai_errors.Overloaded):
        await desk.acquire("m")


async def test_a_place_given_back_goes_to_the_oldest_who_waits() -> None:
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


async def test_more_endpoints_let_in_as_many_as_there_is_room_for() -> None:
    desk = Desk()
    catalog = limited(maxOngoingRequests=2)
    desk.show(catalog, m=views.ready("http://a"))
    tasks = [await desk.ask() for _ in range(7)]
    assert [task.done() for task in tasks] == [True] * 2 + [False] * 5
    desk.show(catalog, m=views.ready("http://a", "http://b"))
    await settle()
    assert [task.done() for task in tasks] == [True] * 4 + [False] * 3
    for task in tasks:
        desk.admission.release(await task)
    assert desk.admission.applications_in_use() == {}


async def test_who_was_held_gets_the_view_of_now() -> None:
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
async def test_what_vanishes_while_held_is_not_served_any_more(name: str) -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    task = await desk.ask(name)
    desk.show(views.snapshot(views.model("other"), *([views.model("m")] if name == "m:a" else []), revision=8))
    with pytest.raises(openai_errors.NotServedHere):
        await task
    if name == "m":
        assert "models/m" not in desk.admission.usage()


async def test_a_running_request_keeps_its_view_and_its_application_in_use() -> None:
    desk = Desk()
    view = desk.show(CATALOG, m=views.ready("http://a", application="old"))
    with await desk.acquire("m") as lease:
        desk.show(views.snapshot(views.model("other"), revision=8))
        assert lease.view is view
        assert desk.admission.applications_in_use() == {"old": 1}
    assert desk.admission.applications_in_use() == {}
    assert desk.admission.usage() == {}


async def test_usage_forgets_models_that_left_the_catalog() -> None:
    desk = Desk()
    desk.show(CATALOG, m=views.ready("http://a"))
    with await desk.acquire("m"):
        pass
    desk.show(views.snapshot(views.model("other"), revision=8))
    assert desk.admission.usage() == {}


async def test_who_leaves_while_waiting_frees_the_place() -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    task = await desk.ask()
    await cancel(task)
    assert desk.admission.usage()["models/m"].in_flight == 0
    desk.show(CATALOG, m=views.ready("http://a"))
    assert desk.admission.in_flight() == 0


async def test_who_leaves_in_the_moment_of_being_let_in_gives_the_place_back() -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    task = await desk.ask()
    desk.show(CATALOG, m=views.ready("http://a"))
    assert desk.admission.in_flight() == 1
    await cancel(task)
    assert desk.admission.in_flight() == 0


async def test_who_leaves_in_the_moment_before_being_let_in_takes_no_place() -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    task = await desk.ask()
    task.cancel()
    desk.show(CATALOG, m=views.ready("http://a"))
    assert desk.admission.in_flight() == 0
    with pytest.raises(asyncio.CancelledError):
        await task
    assert desk.admission.waiting() == 0


async def test_an_endpoint_that_refused_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.ingress.admission._DOWN_S", 0.03)
    desk = Desk()
    desk.show(CATALOG, m=views.ready("http://a", "http://b"))
    desk.admission.report_down(views.endpoints("http://a")[0])

    async def taken() -> set[str]:
        urls = set()
        for _ in range(20):
            with await desk.acquire("m") as lease:
                urls.add(lease.endpoint.url)
        return urls

    assert await taken() == {"http://b"}
    await asyncio.sleep(0.04)
    assert await taken() == {"http://a", "http://b"}


async def test_who_waits_gets_an_endpoint_that_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.ingress.admission._DOWN_S", 0.03)
    desk = Desk()
    desk.show(limited(maxOngoingRequests=1), m=views.ready("http://a", "http://b"))
    desk.admission.report_down(views.endpoints("http://a")[0])
    first = await desk.acquire("m")
    task = await desk.ask()
    assert (first.endpoint.url, task.done()) == ("http://b", False)
    lease = await asyncio.wait_for(task, 1)
    assert lease.endpoint.url == "http://a"


async def test_shutting_down_refuses_those_who_wait() -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    tasks = [await desk.ask() for _ in range(3)]
    desk.admission.refuse_waiting()
    for task in tasks:
        with pytest.raises(openai_errors.ShuttingDown):
            await task


async def test_a_thousand_held_requests_cost_little_per_view() -> None:
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


async def test_invariant_counts_return_to_zero_whatever_happens() -> None:
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


async def test_a_model_that_nobody_asked_for_lately_is_no_longer_reported() -> None:
    desk = Desk()
    desk.show(CATALOG, m=views.ready("http://127.0.0.1:1"), other=views.ready("http://127.0.0.1:2"))
    held = await desk.acquire("m")
    with await desk.acquire("other"):
        pass
    desk.now += 59
    assert desk.admission.usage().keys() == {"models/m", "models/other"}
    desk.now += 2
    assert desk.admission.usage().keys() == {"models/m"}, "a request is in it"
    desk.admission.release(held)
    with await desk.acquire("other"):
        assert desk.admission.usage()["models/other"].in_flight == 1
