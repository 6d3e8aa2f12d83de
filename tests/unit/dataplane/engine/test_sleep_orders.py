from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog

from dataplane.engine.sleep_orders import SleepOrders
from dataplane.relay.messages import SleepOrder


class Engine:
    def __init__(self) -> None:
        self.calls: list[str] = []

    async def sleep(self) -> None:
        self.calls.append("sleep")

    async def wake(self) -> None:
        self.calls.append("wake")


class World:
    def __init__(self) -> None:
        self.in_flight = 0
        self.done = asyncio.Event()
        self.engine = Engine()
        self.in_use = asyncio.Lock()
        self.orders = SleepOrders(in_flight=self.counted, on_carried_out=self.done.set, log=structlog.get_logger())

    async def counted(self) -> int:
        return self.in_flight

    async def carried_out(self, order: SleepOrder) -> None:
        self.done.clear()
        self.orders.give(order)
        async with asyncio.timeout(5):
            await self.done.wait()
        assert self.orders.carried_out == order


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    running = asyncio.create_task(made.orders.run(made.engine, made.in_use))  # type: ignore[arg-type]  # all it needs
    yield made
    running.cancel()


async def test_the_engine_sleeps_and_wakes_by_order(world: World) -> None:
    for number, (asleep, calls) in enumerate(((True, ["sleep"]), (False, ["sleep", "wake"])), 1):
        await world.carried_out(SleepOrder(number, asleep))
        assert world.engine.calls == calls
        assert world.orders.is_asleep == asleep


async def test_an_order_to_stay_as_it_is_touches_no_engine(world: World) -> None:
    await world.carried_out(SleepOrder(1, asleep=False))
    assert world.engine.calls == []


async def test_it_sleeps_when_the_last_request_of_any_front_end_has_ended(world: World) -> None:
    world.in_flight = 1
    world.orders.give(SleepOrder(1, asleep=True))
    await asyncio.sleep(0.25)
    assert world.engine.calls == []
    assert world.orders.is_asleep, "it is to sleep, so it is left alone"
    world.in_flight = 0
    await world.done.wait()
    assert world.engine.calls == ["sleep"]


async def test_it_does_not_sleep_while_it_is_in_use(world: World) -> None:
    async with world.in_use:
        world.orders.give(SleepOrder(1, asleep=True))
        await asyncio.sleep(0.02)
        assert world.engine.calls == []
    await world.done.wait()
    assert world.engine.calls == ["sleep"]
