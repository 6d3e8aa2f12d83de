"""Adapters that are registered while an engine runs are tried without a request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from broadsheet.v1 import snapshot_pb2
from dataplane.engine.new_adapters import NewAdapters
from dataplane.errors import AdapterError
from dataplane.openai.wire import encode_adapter
from dataplane.relay.messages import LiveAdapters
from tests import views


def entry(adapter_id: str, catalog_revision: int) -> snapshot_pb2.AdapterEntry:
    made = views.adapter("m", adapter_id)
    made.revision.catalog_revision = catalog_revision
    return made


def live(catalog_revision: int, **changed_at: int) -> LiveAdapters:
    newest = sorted(changed_at.items(), key=lambda item: -item[1])
    return LiveAdapters(
        catalog_revision=catalog_revision,
        newest=tuple(encode_adapter(entry(adapter_id, revision)) for adapter_id, revision in newest),
    )


class World:
    def __init__(self) -> None:
        self.tried: list[str] = []
        self.fails: set[str] = set()
        self.asleep = False
        self.reported = 0
        self.new = NewAdapters(self.ensure, is_asleep=lambda: self.asleep, clock=lambda: 0.0, on_tried=self.on_tried)

    async def ensure(self, adapter: snapshot_pb2.AdapterEntry) -> None:
        self.tried.append(adapter.name.rpartition("/")[2])
        if self.tried[-1] in self.fails:
            raise AdapterError("no")

    def on_tried(self) -> None:
        self.reported += 1

    async def offered(self, adapters: LiveAdapters) -> list[str]:
        """What is tried because of it."""
        self.tried.clear()
        self.new.offer(adapters)
        for _ in range(50):
            await asyncio.sleep(0)
        return list(self.tried)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    running = asyncio.create_task(made.new.run())
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_adapters_that_were_there_before_the_engine_are_not_tried(world: World) -> None:
    assert await world.offered(live(7, a=3, b=7)) == []
    assert (world.new.tried, world.reported) == (7, 1)


async def test_new_adapters_are_tried_in_the_order_of_their_registration(world: World) -> None:
    await world.offered(live(7, a=7))
    assert await world.offered(live(9, a=7, b=8, c=9)) == ["b", "c"]
    assert await world.offered(live(10, a=10, b=8, c=9)) == ["a"]
    assert (world.new.tried, world.reported) == (10, 3)


async def test_the_same_list_again_tries_nothing(world: World) -> None:
    await world.offered(live(7))
    await world.offered(live(8, a=8))
    assert await world.offered(live(8, a=8)) == []
    assert await world.offered(live(7, a=8)) == []
    assert world.new.tried == 8


async def test_an_adapter_that_fails_does_not_keep_others_from_being_tried(world: World) -> None:
    await world.offered(live(7))
    world.fails = {"a"}
    assert await world.offered(live(9, a=8, b=9)) == ["a", "b"]
    assert world.new.tried == 9


async def test_an_engine_that_sleeps_is_left_alone(world: World) -> None:
    await world.offered(live(7))
    world.asleep = True
    assert await world.offered(live(8, a=8)) == []
    assert world.new.tried == 8
    world.asleep = False
    assert await world.offered(live(9, a=8)) == [], "a request will load it"


async def test_an_engine_in_use_by_a_sleep_order_is_waited_for(world: World) -> None:
    await world.offered(live(7))
    async with world.new.engine_in_use:
        assert await world.offered(live(8, a=8)) == []
        world.asleep = True
    await asyncio.sleep(0.01)
    assert world.tried == []
    assert world.new.tried == 8
