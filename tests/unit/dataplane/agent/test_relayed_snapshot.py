"""What the agent puts into the relay, and what the next agent and a new ingress replica find."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from dataplane.agent import relayed_snapshot
from dataplane.agent.relayed_snapshot import SnapshotPublisher, find_snapshot
from dataplane.relay.relay import Relay
from dataplane.relay.snapshots import BASE, WHOLE, read_snapshot
from dataplane.relay.topics import Role, Topic
from dataplane.snapshot.change import Change, changed
from dataplane.snapshot.changes.accept_change import accept_change
from dataplane.snapshot.snapshot import RawEntry, Snapshot
from tests.raw import CATALOG, POLICY, accepted, model, position, raw, raws
from tests.unit.dataplane.relay.relay_world import RelayWorld

FIRST = accepted(CATALOG)


def after(
    held: Snapshot, *entries: RawEntry, removed: frozenset[str] = frozenset(), store_uid: str = "store-a"
) -> Snapshot:
    change = Change(base=held.position, entries=entries, removed=removed)
    at = position(changed(held.entries, change), held.position.revision + 1)
    outcome = accept_change(at, change, held, POLICY, signed_head=f"head {at.revision}".encode())
    assert isinstance(outcome, Snapshot), outcome
    return outcome


def steps(count: int) -> list[Snapshot]:
    """FIRST, and the snapshots of changes after it."""
    found = [FIRST]
    for number in range(count):
        found.append(after(found[-1], raw(model("c", number=number + 1))))
    return found


class SlowRelay(RelayWorld):
    """A relay whose answers to puts take long."""

    def __init__(self) -> None:
        super().__init__()
        self.slow: asyncio.Event | None = None
        """Set when they may come."""
        self.unanswered = 0

    async def remote(self, request: bytes) -> bytes:
        answer = await super().remote(request)
        if self.slow is not None and self.calls[-1] == "put":
            self.unanswered += 1
            await self.slow.wait()
        return answer


class World:
    """A relay with the agent's client."""

    def __init__(self) -> None:
        self.world = SlowRelay()
        self.relay = self.world.relay(Role.AGENT, "agent")
        self.publisher = SnapshotPublisher(self.relay, rules="rules")

    def reader(self) -> Relay:
        return self.world.relay(Role.INGRESS, "reader")

    async def put(self, *snapshots: Snapshot) -> None:
        for snapshot in snapshots:
            await self.publisher.put(snapshot, withdrawn=())

    async def in_relay(self) -> tuple[int, list[int]]:
        """Revision of the whole snapshot, and of the changes after it, which must follow it."""
        found = await read_snapshot(self.reader())
        assert found is not None
        assert [change.position for change in found.following()] == [change.position for change in found.changes]
        return found.whole.position.revision, [change.position.revision for change in found.changes]

    async def compacted(self) -> None:
        """Wait until a whole snapshot has replaced all changes."""
        for _ in range(500):
            if not (await self.in_relay())[1]:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the changes stay")

    @contextlib.asynccontextmanager
    async def compacting(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.publisher.keep_compact())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_snapshots_after_the_first_are_put_as_changes() -> None:
    world, snapshots = World(), steps(3)
    await world.put(*snapshots)
    assert await world.in_relay() == (1, [2, 3, 4])
    found = await find_snapshot(world.reader())
    assert found is not None
    assert (found.position, found.entries) == (snapshots[-1].position, tuple(snapshots[-1].entries))
    assert found.signed_head == b"head 4"


async def test_who_follows_gets_what_has_changed_and_nothing_whole() -> None:
    world, (first, second, third) = World(), steps(2)
    await world.put(first)
    watcher = world.reader().watcher([Topic.SNAPSHOT_BASE, Topic.CHANGES])
    await watcher.next()
    await world.put(second, third)
    (one, other) = (await watcher.next()).values(Topic.CHANGES).values()
    assert [len(step.change.entries) for step in (one, other)] == [1, 1]


async def test_what_removes_most_or_goes_back_or_to_another_store_is_put_whole() -> None:
    world = World()
    large = accepted(raws(*(model(f"m{number}") for number in range(100))))
    few = after(large, removed=frozenset(f"models/m{number}" for number in range(60)))
    await world.put(large, few)
    assert await world.in_relay() == (2, [])
    await world.put(FIRST)
    assert await world.in_relay() == (1, [])
    elsewhere = replace(FIRST, position=position(CATALOG, 2, store_uid="elsewhere"))
    await world.put(elsewhere)
    assert await world.in_relay() == (2, [])


async def test_a_snapshot_whose_predecessors_are_withdrawn_is_put_whole() -> None:
    world, (first, second) = World(), steps(1)
    await world.put(first)
    await world.publisher.put(second, withdrawn=[first.position])
    found = await read_snapshot(world.reader())
    assert found is not None
    assert (found.whole.withdrawn, found.changes) == (frozenset({first.position}), ())


async def test_many_changes_are_replaced_by_a_whole_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relayed_snapshot, "CHANGES_MAX", 4)
    world = World()
    async with world.compacting():
        await world.put(*steps(4))
        await world.compacted()
    assert await world.in_relay() == (5, [])


async def test_many_bytes_of_changes_are_replaced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relayed_snapshot, "_CHANGES_BYTES_MIN", 100)
    world = World()
    async with world.compacting():
        await world.put(*steps(6))
        await world.compacted()
    assert await world.in_relay() == (7, [])


async def test_without_compaction_the_changes_are_bounded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relayed_snapshot, "CHANGES_MAX", 3)
    world = World()
    for snapshot in steps(30):
        await world.put(snapshot)
        assert len((await world.in_relay())[1]) <= 6


async def test_a_whole_snapshot_has_the_change_that_is_on_its_way_and_that_it_removes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relayed_snapshot, "CHANGES_MAX", 2)
    world = World()
    first, second, third, fourth = steps(3)
    await world.put(first, second, third)
    world.world.slow = asyncio.Event()
    putting = asyncio.create_task(world.put(fourth))
    async with world.compacting():
        while world.world.unanswered < 2:  # noqa: ASYNC110  # the change, and the whole snapshot
            await asyncio.sleep(0)
        whole, changes = await world.in_relay()
        assert max(whole, *changes, 0) == fourth.position.revision
        world.world.slow.set()
        await putting


async def test_the_next_agent_replaces_what_the_one_before_has_left() -> None:
    world, snapshots = World(), steps(3)
    await world.put(*snapshots)
    world.relay = world.world.relay(Role.AGENT, "agent", incarnation=2)
    world.publisher = SnapshotPublisher(world.relay, rules="rules")
    await world.put(snapshots[-1])
    assert await world.in_relay() == (4, [])
    await world.put(after(snapshots[-1], raw(model("d"))))
    assert await world.in_relay() == (4, [5])


async def test_a_relay_that_was_restarted_empty_gets_whole_and_changes_again() -> None:
    world, snapshots = World(), steps(3)
    await world.put(*snapshots[:3])
    world.world.restart()
    assert await read_snapshot(world.reader()) is None
    await world.put(snapshots[3])
    assert await world.in_relay() == (1, [2, 3, 4])
    found = await world.reader().read([WHOLE, BASE])
    assert found.changed[BASE].position == found.changed[WHOLE].position
