"""Adapters that load, and adapters that fail: alone, for a while, and with a reason."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broadsheet.v1 import snapshot_pb2
from dataplane.engine import replica_adapters
from dataplane.engine.replica_adapters import FAILURES_MAX, RETRY_FIRST_S, RETRY_MAX_S, ReplicaAdapters
from dataplane.errors import AdapterError
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.relay.messages import LiveAdapters
from tests import views

ADAPTER, OTHER = views.adapter("m", "a"), views.adapter("m", "b", digest=b"\1" * 32)
NAME = engine_adapter_name(ADAPTER)


class Cache:
    """Has every adapter's files, unless `fails`."""

    def __init__(self) -> None:
        self.fails: AdapterError | None = None
        self.forgotten: list[bytes] = []

    async def ensure(self, entry: snapshot_pb2.AdapterEntry) -> Path:
        if self.fails is not None:
            raise self.fails
        return Path("/cache") / entry.revision.weights.digest.hex()

    async def forget(self, digest: bytes) -> None:
        self.forgotten.append(digest)


class Engine:
    """Loads every adapter that is not in `fails`."""

    def __init__(self) -> None:
        self.fails: set[str] = set()
        self.loads: list[str] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def load(self, name: str, path: Path) -> None:
        self.loads.append(name)
        await self.hold.wait()
        if name in self.fails:
            raise AdapterError("expected target modules in {'q_proj'}", reason="ADAPTER_LOAD_FAILED")


class World:
    def __init__(self) -> None:
        self.now = 100.0
        self.engine = Engine()
        self.cache = Cache()
        self.tried: list[tuple[str, str | None]] = []
        self.adapters = ReplicaAdapters(
            self.cache,  # type: ignore[arg-type]  # what it needs of an AdapterCache
            self.engine.load,
            clock=lambda: self.now,
            on_tried=lambda entry, error: self.tried.append((entry.name, error.reason if error else None)),
        )

    async def refusal(self, entry: snapshot_pb2.AdapterEntry = ADAPTER) -> AdapterError:
        with pytest.raises(AdapterError) as caught:
            await self.adapters.ensure(entry)
        return caught.value


@pytest.fixture
async def world() -> World:
    return World()


async def test_an_adapter_is_loaded_once(world: World) -> None:
    for _ in range(2):
        await world.adapters.ensure(ADAPTER)
    assert world.engine.loads == [NAME]
    assert world.adapters.failures == {}


async def test_an_adapter_that_fails_in_the_engine_keeps_the_engines_words_and_fails_alone(world: World) -> None:
    world.engine.fails = {NAME}
    failed = await world.refusal()
    assert (failed.reason, str(failed)) == ("ADAPTER_LOAD_FAILED", "expected target modules in {'q_proj'}")
    assert failed.retry_after_s == RETRY_FIRST_S
    failure = world.adapters.failures[NAME]
    assert (failure.reason, failure.message) == (failed.reason, str(failed))
    await world.adapters.ensure(OTHER)
    assert list(world.adapters.failures) == [NAME]
    assert world.tried == [(ADAPTER.name, "ADAPTER_LOAD_FAILED"), (OTHER.name, None)]


async def test_a_failed_adapter_is_tried_again_ever_more_rarely(world: World) -> None:
    world.engine.fails = {NAME}
    pauses: list[float] = []
    for _ in range(8):
        pauses.append((await world.refusal()).retry_after_s)
        tries = len(world.engine.loads)
        world.now += pauses[-1] - 0.5
        again = await world.refusal()
        assert again.retry_after_s == 0.5
        assert len(world.engine.loads) == len(world.tried) == tries, "it was not tried"
        world.now += 0.5
    assert pauses == [2, 4, 8, 16, 32, RETRY_MAX_S, RETRY_MAX_S, RETRY_MAX_S]
    world.engine.fails = set()
    await world.adapters.ensure(ADAPTER)
    assert world.adapters.failures == {}


@pytest.mark.parametrize("same_weights", [True, False])
async def test_a_new_revision_of_a_failed_adapter_is_tried_at_once(world: World, same_weights: bool) -> None:
    world.cache.fails = AdapterError("/gone: no such directory", reason="ADAPTER_SOURCE_NOT_FOUND")
    await world.refusal()
    world.cache.fails = None
    following = snapshot_pb2.AdapterEntry()
    following.CopyFrom(ADAPTER)
    following.revision.number = 2
    if not same_weights:
        following.revision.weights.digest = b"\2" * 32
    await world.adapters.ensure(following)
    assert world.engine.loads == [engine_adapter_name(following)]


async def test_callers_share_one_load_and_those_who_leave_do_not_end_it(world: World) -> None:
    world.engine.hold.clear()
    leaves, stays = (asyncio.create_task(world.adapters.ensure(ADAPTER)) for _ in range(2))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.sleep(0)
    world.engine.hold.set()
    await stays
    assert world.engine.loads == [NAME]


async def test_a_load_that_everybody_has_left_is_noted(world: World) -> None:
    world.engine.hold.clear()
    world.engine.fails = {NAME}
    caller = asyncio.create_task(world.adapters.ensure(ADAPTER))
    await asyncio.sleep(0)
    caller.cancel()
    world.engine.hold.set()
    await asyncio.wait([caller])
    await asyncio.sleep(0.01)
    assert NAME in world.adapters.failures


async def test_failures_are_bounded(world: World) -> None:
    world.cache.fails = AdapterError("x" * 100_000)
    for number in range(FAILURES_MAX + 1):
        await world.refusal(views.adapter("m", f"a{number}"))
    assert len(world.adapters.failures) == FAILURES_MAX
    assert engine_adapter_name(views.adapter("m", "a0")) not in world.adapters.failures
    assert {len(failure.message) for failure in world.adapters.failures.values()} == {
        replica_adapters._MESSAGE_CHARACTERS_MAX
    }


async def test_what_has_left_the_catalog_is_stale_and_its_failure_is_forgotten(world: World) -> None:
    world.engine.fails = {NAME}
    await world.refusal()
    await world.adapters.ensure(OTHER)
    loaded = engine_adapter_name(OTHER)
    everything = LiveAdapters(catalog_revision=7)
    assert world.adapters.stale(everything) == []
    assert NAME in world.adapters.failures
    assert world.adapters.stale(LiveAdapters(catalog_revision=8, left=frozenset({NAME, loaded}))) == [loaded]
    assert world.adapters.failures == {}


async def test_files_are_removed_unless_another_adapter_has_the_same_weights(world: World) -> None:
    twin = views.adapter("m", "twin")
    for entry in (ADAPTER, twin):
        await world.adapters.ensure(entry)
    await world.adapters.remove_files(world.adapters.drop(NAME))
    assert world.cache.forgotten == []
    await world.adapters.remove_files(world.adapters.drop(engine_adapter_name(twin)))
    assert world.cache.forgotten == [ADAPTER.revision.weights.digest]


async def test_an_adapter_is_refused_while_it_is_unloaded(world: World) -> None:
    await world.adapters.ensure(ADAPTER)
    with world.adapters.leaving(NAME):
        refused = await world.refusal()
        assert (refused.reason, refused.retry_after_s) == ("ADAPTER_LEAVING", RETRY_FIRST_S)
        await world.adapters.ensure(OTHER)
        world.adapters.drop(NAME)
    assert world.adapters.failures == {}
    await world.adapters.ensure(ADAPTER)
    assert world.engine.loads.count(NAME) == 2
