"""Revocations reach every ingress replica through the relay, and the next agent."""

from __future__ import annotations

import asyncio
from itertools import chain

import pytest
from structlog.testing import capture_logs

from dataplane.agent import ingress_revocations
from dataplane.agent.ingress_revocations import IngressRevocations
from dataplane.agent.ingress_swap import SwapTiming
from dataplane.relay.relay import Changes
from dataplane.relay.topics import Role, Topic
from dataplane.snapshot.revocations.revoked_keys import NOTHING_REVOKED, Addition, RevocationsPosition
from tests.unit.dataplane.agent.serve_world import ServeWorld
from tests.unit.dataplane.relay.relay_world import RelayWorld

TIMING = SwapTiming(poll_s=0.001, list_s=0.001, log_s=0.01, stop_s=1000.0)


def at(sequence: int, store_uid: str = "store") -> RevocationsPosition:
    return RevocationsPosition(store_uid=store_uid, sequence=sequence)


class World:
    def __init__(self) -> None:
        self.relay = RelayWorld()
        self.serve = ServeWorld()
        self.reported: dict[str, RevocationsPosition] = {}
        self.agents = 0

    def agent(self) -> IngressRevocations:
        self.agents += 1
        relay = self.relay.relay(Role.AGENT, "agent", incarnation=self.agents)
        return IngressRevocations(relay, positions=lambda: self.reported, serve=self.serve, timing=TIMING)


def uids(first: int, last: int) -> tuple[str, ...]:
    return tuple(f"{number:032x}" for number in range(first, last + 1))


def read(changes: Changes) -> tuple[set[str], RevocationsPosition | None]:
    pieces = changes.values(Topic.REVOCATIONS)
    position = pieces.pop("", None)
    return set(chain.from_iterable(pieces.values())), position


async def test_an_ingress_replica_that_starts_while_the_agent_is_down_finds_them() -> None:
    world = World()
    await world.agent().put(Addition(key_uids=uids(1, 3), position=at(3)))
    ingress = world.relay.relay(Role.INGRESS, "late").watcher([Topic.REVOCATIONS])
    assert read(await ingress.next()) == (set(uids(1, 3)), at(3))


async def test_the_next_agent_finds_them() -> None:
    world = World()
    assert (await world.agent().found()).position == NOTHING_REVOKED
    await world.agent().put(Addition(key_uids=uids(1, 3), position=at(3)))
    found = await world.agent().found()
    assert (set(found.key_uids), found.position) == (set(uids(1, 3)), at(3))


async def test_one_more_revocation_costs_a_piece_and_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress_revocations, "PIECE_UIDS", 10)
    world = World()
    agent = world.agent()
    await agent.put(Addition(key_uids=uids(1, 25), position=at(25)))
    ingress = world.relay.relay(Role.INGRESS, "a").watcher([Topic.REVOCATIONS])
    held, _ = read(await ingress.next())
    for sequence in range(26, 45):
        await agent.put(Addition(key_uids=uids(sequence, sequence), position=at(sequence)))
        new, position = read(await ingress.next())
        assert len(new) <= 10
        held |= new
        assert position == at(sequence)
    assert held == set(uids(1, 44))
    assert set((await world.agent().found()).key_uids) == held


async def test_an_agent_that_takes_over_overwrites_no_piece_with_less() -> None:
    world = World()
    await world.agent().put(Addition(key_uids=uids(1, 3), position=at(3)))
    second = world.agent()
    found = await second.found()
    await second.put(Addition(key_uids=(*found.key_uids, "new"), position=found.position))
    assert set((await world.agent().found()).key_uids) == {*uids(1, 3), "new"}


async def test_a_relay_that_was_restarted_gets_them_again() -> None:
    world = World()
    agent = world.agent()
    await agent.put(Addition(key_uids=uids(1, 3), position=at(3)))
    world.relay.restart()
    await agent.put(Addition(key_uids=uids(4, 4), position=at(4)))
    assert set((await world.agent().found()).key_uids) == set(uids(1, 4))


async def waits(world: World, *, newest: list[RevocationsPosition]) -> asyncio.Task[RevocationsPosition]:
    task = asyncio.create_task(world.agent().until_applied(lambda: newest[0]))
    await asyncio.sleep(0.03)
    assert not task.done()
    return task


async def test_the_report_waits_for_every_replica_that_lives_and_names_the_one_that_lags() -> None:
    world = World()
    world.serve.ingress = {"a", "b", "silent"}
    world.reported = {"a": at(5), "b": at(4)}
    with capture_logs() as logs:
        task = await waits(world, newest=[at(5)])
    assert {(log["event"], tuple(log["replicas"])) for log in logs} == {
        ("ingress_lags_with_revocations", ("b", "silent"))
    }
    world.reported["b"] = at(6)
    await asyncio.sleep(0.02)
    assert not task.done()
    world.serve.ingress.discard("silent")
    assert await asyncio.wait_for(task, 5) == at(5)
    assert not world.serve.stopped_ingress


async def test_a_store_that_changes_meanwhile_is_waited_for_instead() -> None:
    world = World()
    world.serve.ingress, world.reported = {"a"}, {"a": at(4)}
    newest = [at(5)]
    task = await waits(world, newest=newest)
    newest[0] = world.reported["a"] = at(1, "restored")
    assert await asyncio.wait_for(task, 5) == at(1, "restored")


async def test_nothing_is_waited_for_when_nothing_is_revoked() -> None:
    world = World()
    world.serve.ingress = {"a"}
    assert await asyncio.wait_for(world.agent().until_applied(lambda: NOTHING_REVOKED), 5) == NOTHING_REVOKED
