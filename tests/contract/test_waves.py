"""The record of waves on both databases: versions, order of announcements, the audit log."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from broadsheet.v1 import rollback_pb2, waves_pb2
from controlplane.catalog.domain import Head
from controlplane.fleet.fleet import Fleet, fleet_of
from controlplane.fleet.shared_database import sharing_of
from controlplane.fleet.waves.states import State
from controlplane.rpc.handlers.waves import WavesHandler
from controlplane.store.fleet.waves import NOTHING, WavesRecord
from controlplane.store.transactions import WriteTransaction
from controlplane.upkeep.waves import WavesUpkeep
from tests.contract.test_audit import events
from tests.postgres_server import PostgresServer
from tests.registry_world import NO_CONTEXT, START, World, open_world

POLICY = waves_pb2.FleetPolicy(waves=[waves_pb2.Wave(percent=10)])


async def put(world: World, policy: bytes, *, is_logged: bool = True, dry_run: bool = False) -> None:
    async def work(transaction: WriteTransaction) -> None:
        record = await transaction.waves.get()
        await transaction.waves.put(replace(record, policy=policy), is_logged=is_logged)

    await world.store.write(work, method="SetFleetPolicy", resource="fleetPolicy", dry_run=dry_run)


async def test_each_change_has_a_version_and_a_dry_run_has_none(world: World) -> None:
    assert await world.store.waves.get() == NOTHING
    announced: list[WavesRecord] = []
    world.store.waves.subscribe(announced.append)
    await put(world, b"a", dry_run=True)
    assert (await world.store.waves.get(), announced) == (NOTHING, [])
    await put(world, b"a")
    await put(world, b"b", is_logged=False)
    record = await world.store.waves.get()
    assert (record.version, record.policy) == (2, b"b")
    assert [item.version for item in announced] == [1, 2]
    assert [(event.method, event.resource, event.key) for event in await events(world)] == [
        ("SetFleetPolicy", "fleetPolicy", (0, 1))
    ]


async def test_a_change_that_is_refused_takes_the_record_back(world: World) -> None:
    await put(world, b"a")
    announced: list[WavesRecord] = []
    world.store.waves.subscribe(announced.append)

    async def refused(transaction: WriteTransaction) -> None:
        await transaction.waves.put(replace(await transaction.waves.get(), policy=b"bad"), is_logged=True)
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        await world.store.write(refused, method="SetFleetPolicy", resource="fleetPolicy")
    assert ((await world.store.waves.get()).policy, announced) == (b"a", [])


async def test_a_policy_holds_for_the_commit_right_after_it_in_the_same_group(world: World) -> None:
    await world.register_model("m")
    fleet = await _fleet(world)
    handler = WavesHandler(world.store, fleet)
    given: list[int] = []
    fleet.waves.listen(lambda: given.append(fleet.waves.head_for("dp").position.revision))
    world.store.commits.subscribe(lambda head: _announce(fleet, head))
    setting = handler.set_fleet_policy(waves_pb2.SetFleetPolicyRequest(policy=POLICY))
    await asyncio.gather(setting, world.register_model("n"))
    assert fleet.state.head.position.revision == 2
    assert set(given) == {1}
    assert fleet.waves.held("dp")


async def test_a_roll_back_is_noted_with_its_revision(world: World) -> None:
    await put(world, POLICY.SerializeToString())
    await world.register_model("m")
    await world.register_model("n")
    request = rollback_pb2.RollbackCatalogRequest(to_revision=1, validate_only=True)
    await world.snapshots.RollbackCatalog(request, NO_CONTEXT)
    assert (await world.store.waves.get()).rollback_revision == 0
    await world.snapshots.RollbackCatalog(rollback_pb2.RollbackCatalogRequest(to_revision=1), NO_CONTEXT)
    assert (await world.store.waves.get()).rollback_revision == 3


async def test_snapshots_that_may_still_be_sent_are_in_use(world: World) -> None:
    await world.register_model("m")
    fleet = await _fleet(world)
    assert _oldest(fleet) is None
    handler = WavesHandler(world.store, fleet)
    await handler.set_fleet_policy(waves_pb2.SetFleetPolicyRequest(policy=POLICY))
    await world.register_model("n")
    assert _oldest(fleet) == 1
    await handler.set_fleet_policy(waves_pb2.SetFleetPolicyRequest(policy=waves_pb2.FleetPolicy()))
    assert _oldest(fleet) is None


async def test_setting_a_policy_again_releases_nothing_that_is_held(world: World) -> None:
    fleet = await _fleet(world)
    world.store.commits.subscribe(lambda head: _announce(fleet, head))
    handler = WavesHandler(world.store, fleet)
    request = waves_pb2.SetFleetPolicyRequest(policy=POLICY)
    await handler.set_fleet_policy(request)
    await world.register_model("m")
    await handler.set_fleet_policy(request)
    assert fleet.waves.head_for("dp").position.revision == 0
    rollout = fleet.waves.rollout
    assert rollout is not None
    assert rollout.state is State.IDLE


async def test_a_move_that_was_decided_from_an_older_record_changes_nothing(world: World) -> None:
    await world.register_model("m")
    fleet = await _fleet(world)
    world.store.commits.subscribe(lambda head: _announce(fleet, head))
    handler = WavesHandler(world.store, fleet)
    await handler.set_fleet_policy(waves_pb2.SetFleetPolicyRequest(policy=POLICY))
    await world.register_model("n")
    upkeep = WavesUpkeep(world.store, fleet, now=lambda: START, clock=lambda: 0.0)
    step, decided_from = upkeep._due(), fleet.waves.record
    assert step is not None
    await handler.force_fleet_rollout(waves_pb2.ForceFleetRolloutRequest())
    forced = await world.store.waves.get()
    assert not await upkeep._write(decided_from, step)
    assert await world.store.waves.get() == forced


async def test_another_control_plane_gives_nothing_out_before_it_knows_the_policy(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.new_database()
    async with open_world(url, tmp_path / "a") as first, open_world(url, tmp_path / "b") as second:
        await first.register_model("m")
        # It looks at nothing by itself here: neither notified nor by a timer.
        fleet = fleet_of(
            second.store, head=await second.store.head(), waves=second.store.waves, sharing=sharing_of(second.store)
        )
        await fleet.waves.refresh()
        second.store.commits.subscribe(lambda head: _announce(fleet, head))
        request = waves_pb2.SetFleetPolicyRequest(policy=POLICY)
        await WavesHandler(first.store, await _fleet(first)).set_fleet_policy(request)
        await second.register_model("n")
        assert fleet.state.head.position.revision == 2
        assert fleet.waves.head_for("dp").position.revision == 1
        told = asyncio.Event()
        fleet.waves.listen(told.set)
        following = asyncio.create_task(fleet.waves.follow())
        async with asyncio.timeout(10):
            await told.wait()
        assert fleet.waves.held("dp")
        following.cancel()
        assert fleet.waves.head_for("dp").position.revision == 1
        # A stream that connects is held from its first moment on.
        await second.register_model("o")
        await fleet.waves.refresh()
        assert (fleet.waves.newest.position.revision, fleet.waves.floor.position.revision) == (3, 1)


async def _fleet(world: World) -> Fleet:
    fleet = fleet_of(world.store, head=await world.store.head(), waves=world.store.waves)
    await fleet.waves.refresh()
    return fleet


def _oldest(fleet: Fleet) -> int | None:
    return fleet.waves.oldest_in_use


def _announce(fleet: Fleet, head: Head) -> None:
    if fleet.state.publish(head):
        fleet.waves.announce(head)
