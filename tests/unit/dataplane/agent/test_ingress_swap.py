"""ACTIVE waits for every ingress replica that lives."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from structlog.testing import capture_logs

from dataplane.agent.ingress_swap import SwapTiming, until_ingress_decides_by
from dataplane.snapshot.snapshot import Position
from tests.unit.dataplane.agent.ledger.reporting import OTHER, POSITION
from tests.unit.dataplane.agent.serve_world import ServeWorld

PATIENT = SwapTiming(poll_s=0.001, list_s=0.001, log_s=0.01, stop_s=1000.0)
LONG_S = 0.05


class World:
    """Ingress replicas, and an agent that waits for them to decide by `OTHER`."""

    def __init__(self, **positions: Position | None) -> None:
        self.positions: dict[str, Position | None] = dict(positions)
        self.serve = ServeWorld()
        self.serve.ingress = set(positions)
        self.shown: list[str] = []

    def wait(self, timing: SwapTiming = PATIENT) -> asyncio.Task[None]:
        return asyncio.create_task(
            until_ingress_decides_by(
                OTHER,
                positions=lambda: self.positions,
                serve=self.serve,
                on_lag=self.shown.append,
                timing=timing,
            )
        )

    async def still_waits(self, timing: SwapTiming = PATIENT) -> asyncio.Task[None]:
        waiting = self.wait(timing)
        await asyncio.sleep(LONG_S)
        assert not waiting.done()
        return waiting


async def ends(waiting: asyncio.Task[None]) -> None:
    async with asyncio.timeout(5):
        await waiting


async def test_active_waits_for_a_replica_that_lags_and_it_is_named() -> None:
    world = World(a=OTHER, b=POSITION)
    with capture_logs() as logs:
        waiting = await world.still_waits()
    assert {(log["event"], tuple(log["replicas"]), log["revision"]) for log in logs} == {("ingress_lags", ("b",), 2)}
    assert set(world.shown) == {"ingress replicas that do not decide by it yet: b"}
    world.positions["b"] = OTHER
    await ends(waiting)


async def test_active_waits_for_a_silent_replica_until_ray_says_that_it_is_gone() -> None:
    world = World(a=OTHER, silent=POSITION)
    del world.positions["silent"]  # the relay has given it up
    waiting = await world.still_waits()
    world.serve.ingress.discard("silent")
    await ends(waiting)


async def test_report_of_a_dead_replica_does_not_delay_active() -> None:
    world = World(a=OTHER, dead=POSITION)
    world.serve.ingress.discard("dead")
    await ends(world.wait())


async def test_active_does_not_wait_without_ingress_replicas_or_for_one_that_starts_later() -> None:
    await ends(World().wait())
    world = World(a=POSITION)
    waiting = await world.still_waits()
    world.serve.ingress.add("later")
    world.positions["a"] = OTHER
    await ends(waiting)


async def test_replica_that_lags_for_too_long_is_stopped_before_the_snapshot_is_active() -> None:
    world = World(a=OTHER, stuck=POSITION)
    await ends(world.wait(SwapTiming(poll_s=0.001, list_s=0.001, log_s=1.0, stop_s=LONG_S)))
    assert world.serve.stopped_ingress == ["stuck"]


async def test_replica_without_a_snapshot_is_not_stopped_and_does_not_delay_active_for_ever() -> None:
    world = World(a=OTHER, new=None)
    timing = SwapTiming(poll_s=0.001, list_s=0.001, log_s=1.0, stop_s=2 * LONG_S)
    await ends(await world.still_waits(timing))
    assert world.serve.stopped_ingress == []


async def test_replica_that_decides_by_a_newer_snapshot_than_the_agents_is_not_stopped() -> None:
    world = World(ahead=replace(OTHER, revision=3))
    timing = SwapTiming(poll_s=0.001, list_s=0.001, log_s=1.0, stop_s=2 * LONG_S)
    await ends(await world.still_waits(timing))
    assert world.serve.stopped_ingress == []


async def test_replica_that_decides_by_a_snapshot_of_another_store_is_stopped() -> None:
    world = World(other=replace(OTHER, store_uid="before", revision=9))
    await ends(world.wait(SwapTiming(poll_s=0.001, list_s=0.001, log_s=1.0, stop_s=LONG_S)))
    assert world.serve.stopped_ingress == ["other"]
