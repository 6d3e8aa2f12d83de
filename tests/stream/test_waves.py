"""Waves over real gRPC streams: what is held, what halts, and how an operator goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from broadsheet.v1 import audit_pb2, rollback_pb2, status_pb2, waves_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1.fleet_service_pb2 import DataPlaneOutcome as Outcome
from tests.postgres_server import PostgresServer
from tests.stream.sync_conditions import is_connected
from tests.stream.sync_world import ControlPlane, DataPlane, control_plane, eventually
from tests.stream.test_access import reason_of
from tests.stream.test_replicas import NOTIFIED

Rollout = waves_pb2.FleetRollout

CANARY = {"tier": "canary"}

POLICY: dict[str, Any] = {"waves": [waves_pb2.Wave(labels=waves_pb2.LabelSelector(labels=CANARY)), waves_pb2.Wave()]}


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path / "registry") as running:
        yield running


async def set_policy(plane: ControlPlane, **fields: Any) -> waves_pb2.FleetPolicy:
    policy = waves_pb2.FleetPolicy(**{**POLICY, **fields})
    response: waves_pb2.SetFleetPolicyResponse = await plane.fleet.SetFleetPolicy(
        waves_pb2.SetFleetPolicyRequest(policy=policy)
    )
    return response.policy


async def rollout(plane: ControlPlane) -> Rollout:
    response: waves_pb2.GetFleetRolloutResponse = await plane.fleet.GetFleetRollout(waves_pb2.GetFleetRolloutRequest())
    return response.rollout


async def state(plane: ControlPlane, wanted: str) -> Rollout:
    """Wait for a state of the rollout."""

    async def is_there() -> bool:
        return Rollout.State.Name((await rollout(plane)).state) == f"STATE_{wanted}"

    await eventually(is_there)
    return await rollout(plane)


async def done(plane: ControlPlane, revision: int) -> None:
    """Wait until a revision has reached everyone."""

    async def is_stable() -> bool:
        return (await rollout(plane)).stable.revision == revision

    await eventually(is_stable)


async def knows_traffic(plane: ControlPlane, name: str, requests: int) -> bool:
    known = plane.fan_out._fleet.state.get(name)
    return known is not None and known.traffic is not None and known.traffic.requests == requests


class Fleet:
    """A canary and two others."""

    def __init__(self) -> None:
        self.canary, self.first, self.second = DataPlane(), DataPlane(), DataPlane()

    @property
    def others(self) -> Sequence[DataPlane]:
        return self.first, self.second

    @property
    def revisions(self) -> list[int]:
        all_planes = (self.canary, self.first, self.second)
        return [plane.snapshot.position.revision if plane.snapshot else -1 for plane in all_planes]

    @asynccontextmanager
    async def running(self, *addresses: str) -> AsyncIterator[None]:
        """All three, each at one of the addresses."""
        async with AsyncExitStack() as stack:
            for number, (plane, name, labels) in enumerate(
                ((self.canary, "canary", CANARY), (self.first, "first", {}), (self.second, "second", {}))
            ):
                address = addresses[number % len(addresses)]
                await stack.enter_async_context(plane.running(address, name, instance_uid=name, labels=labels))
            yield


@asynccontextmanager
async def fleet_with_policy(plane: ControlPlane, *more: ControlPlane, **policy: Any) -> AsyncIterator[Fleet]:
    """Three data planes that serve revision 1, and a policy with two waves."""
    fleet = Fleet()
    await plane.register("m", text="0")
    async with fleet.running(plane.address, *(other.address for other in more)):
        for data_plane in (fleet.canary, *fleet.others):
            await data_plane.active(1)
        for name in ("canary", "first", "second"):
            await eventually(lambda name=name: is_connected(plane, True, name))  # type: ignore[misc]
        await set_policy(plane, **policy)
        yield fleet


async def test_each_wave_gets_a_snapshot_after_the_one_before_is_well(plane: ControlPlane) -> None:
    async with fleet_with_policy(plane) as fleet:
        order: list[str] = []
        for name, data_plane in (("canary", fleet.canary), ("first", fleet.first), ("second", fleet.second)):

            async def note(position: object, name: str = name) -> None:
                order.append(name)

            data_plane._decide = note
        revision = await plane.register("m", text="1")
        await done(plane, revision)
        assert fleet.revisions == [revision] * 3
        assert order[0] == "canary"
        assert sorted(order) == ["canary", "first", "second"]
        events = (await plane.registry.ListAuditEvents(audit_pb2.ListAuditEventsRequest())).events
        mine = [(event.method, event.principal.name) for event in events if event.resource == "fleetRollout"]
        assert mine == [
            ("CompleteFleetRollout", "waves"),
            ("AdvanceFleetRollout", "waves"),
            ("BeginFleetRollout", "waves"),
        ]


async def test_a_snapshot_that_the_canary_rejects_reaches_nobody_else(plane: ControlPlane) -> None:
    async with fleet_with_policy(plane) as fleet:
        fleet.canary.doomed.add(2)
        await plane.register("m", text="1")
        halted = await state(plane, "HALTED")
        assert (halted.wave, halted.wave_count, halted.reason) == (1, 2, "DOOMED")
        assert [(harm.data_plane, harm.reason, harm.message) for harm in halted.hurt] == [
            ("dataPlanes/canary", "DOOMED", "the test rejects it")
        ]
        assert (halted.stable.revision, halted.target.revision, halted.held_count) == (1, 2, 2)
        # Later ones wait, too.
        await plane.register("m", text="2")
        assert (await rollout(plane)).newest_revision == 3
        await asyncio.sleep(0.2)
        assert fleet.revisions == [1, 1, 1]
        assert fleet.canary.offered == [1, 2]
        assert fleet.first.offered == fleet.second.offered == [1]
        held = await plane.data_plane("first")
        assert (held.wave, held.held) == (
            2,
            "held by wave 1 of 2, which is HALTED: DOOMED: canary: the test rejects it",
        )
        assert (await plane.data_plane("canary")).wave == 1
        outcomes = (await plane.wait_for(2, timeout_s=0.1)).outcomes
        assert [(outcome.data_plane, outcome.outcome) for outcome in outcomes] == [
            ("dataPlanes/canary", Outcome.OUTCOME_REJECTED),
            ("dataPlanes/first", Outcome.OUTCOME_PENDING),
            ("dataPlanes/second", Outcome.OUTCOME_PENDING),
        ]
        assert outcomes[1].message == held.held


async def test_an_operator_forces_the_newest_to_everyone(plane: ControlPlane) -> None:
    async with fleet_with_policy(plane) as fleet:
        fleet.canary.doomed.add(2)
        await plane.register("m", text="1")
        await state(plane, "HALTED")
        await plane.register("m", text="2")
        answer = await plane.fleet.ForceFleetRollout(waves_pb2.ForceFleetRolloutRequest())
        assert (answer.rollout.state, answer.rollout.stable.revision) == (Rollout.STATE_IDLE, 3)
        for data_plane in (fleet.canary, *fleet.others):
            await data_plane.active(3)
        # The next one goes in waves again.
        fleet.canary.doomed.add(4)
        await plane.register("m", text="3")
        await state(plane, "HALTED")
        assert fleet.revisions == [3, 3, 3]


async def test_an_operator_resumes_without_those_who_were_hurt(plane: ControlPlane) -> None:
    async with fleet_with_policy(plane) as fleet:
        fleet.canary.doomed.add(2)
        await plane.register("m", text="1")
        await state(plane, "HALTED")
        answer = await plane.fleet.ResumeFleetRollout(waves_pb2.ResumeFleetRolloutRequest())
        assert list(answer.rollout.excused) == ["dataPlanes/canary"]
        await done(plane, 2)
        for data_plane in fleet.others:
            await data_plane.active(2)
        # What it has rejected was not sent to it again.
        assert fleet.canary.offered == [1, 2]


async def test_a_fix_goes_to_the_hurt_first_and_then_in_waves(plane: ControlPlane) -> None:
    async with fleet_with_policy(plane) as fleet:
        fleet.canary.doomed.add(2)
        await plane.register("m", text="1")
        await state(plane, "HALTED")
        await plane.register("m", text="2")
        request = waves_pb2.ResumeFleetRolloutRequest(newest=True)
        answer = await plane.fleet.ResumeFleetRollout(request)
        assert (answer.rollout.target.revision, answer.rollout.wave) == (3, 0)
        await done(plane, 3)
        assert fleet.revisions == [3, 3, 3]


async def test_a_roll_back_ends_a_halted_rollout_and_reaches_everyone(plane: ControlPlane) -> None:
    async with fleet_with_policy(plane) as fleet:
        await plane.register("m", text="1")
        await done(plane, 2)
        fleet.canary.report({"models/m": status_pb2.RESOURCE_STATE_READY})
        await plane.register("m", text="2")
        await fleet.canary.active(3)
        await done(plane, 3)
        fleet.canary.doomed.add(4)
        await plane.register("m", text="3")
        await state(plane, "HALTED")
        response = await plane.snapshots.RollbackCatalog(rollback_pb2.RollbackCatalogRequest(to_revision=3))
        await done(plane, response.catalog_revision)
        assert fleet.revisions == [response.catalog_revision] * 3


async def test_a_model_that_fails_on_the_canary_alone_halts(plane: ControlPlane) -> None:
    soak = waves_pb2.Wave(labels=waves_pb2.LabelSelector(labels=CANARY))
    soak.soak.FromSeconds(3600)
    async with fleet_with_policy(plane, waves=[soak]) as fleet:
        fleet.canary.report({"models/m": status_pb2.RESOURCE_STATE_READY})
        await plane.register("m", text="1")
        await state(plane, "SOAKING")
        fleet.canary.report({"models/m": status_pb2.RESOURCE_STATE_FAILED})
        halted = await state(plane, "HALTED")
        assert [(harm.resource, harm.reason) for harm in halted.hurt] == [("models/m", "FAILED")]
        assert fleet.revisions == [2, 1, 1]


async def test_a_higher_share_of_errors_on_the_canary_halts(plane: ControlPlane) -> None:
    soak = waves_pb2.Wave(labels=waves_pb2.LabelSelector(labels=CANARY))
    soak.soak.FromSeconds(3600)
    async with fleet_with_policy(plane, waves=[soak]) as fleet:
        assert fleet.canary.client is not None
        fleet.canary.client.report({}, pb.Traffic(requests=1000, failures=1))
        await eventually(lambda: knows_traffic(plane, "canary", 1000))
        await plane.register("m", text="1")
        await state(plane, "SOAKING")
        fleet.canary.client.report({}, pb.Traffic(requests=1200, failures=60))
        halted = await state(plane, "HALTED")
        assert halted.hurt[0].reason == "ERROR_SHARE"
        assert "59 of 200 requests" in halted.hurt[0].message


async def test_a_canary_that_is_not_there_is_waited_for_and_named(plane: ControlPlane) -> None:
    async with fleet_with_policy(plane) as fleet:
        pass
    await eventually(lambda: is_connected(plane, False, "canary"))
    wave = waves_pb2.Wave(labels=waves_pb2.LabelSelector(labels=CANARY))
    wave.timeout.FromSeconds(1)
    await set_policy(plane, waves=[wave])
    async with fleet.first.running(plane.address, "first"):
        await plane.register("m", text="1")
        rolling = await state(plane, "ROLLING")
        assert list(rolling.waiting_for) == ["dataPlanes/canary"]
        halted = await state(plane, "HALTED")
        assert halted.reason == "WAVE_TIMEOUT"
        assert "canary (not connected)" in halted.message
        assert fleet.revisions == [1, 1, 1]
        # A data plane that comes while it is held gets what it may have, and keeps what it has.
        late = DataPlane()
        async with late.running(plane.address, "late"):
            await late.active(1)
            assert late.offered == [1]


async def test_an_operator_halts_a_rollout_and_the_state_must_fit(plane: ControlPlane) -> None:
    soak = waves_pb2.Wave(labels=waves_pb2.LabelSelector(labels=CANARY))
    soak.soak.FromSeconds(3600)
    async with fleet_with_policy(plane, waves=[soak]):
        for call in (
            plane.fleet.HaltFleetRollout(waves_pb2.HaltFleetRolloutRequest()),
            plane.fleet.ResumeFleetRollout(waves_pb2.ResumeFleetRolloutRequest()),
            plane.fleet.ResumeFleetRollout(waves_pb2.ResumeFleetRolloutRequest(newest=True)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert reason_of(refused.value) == "ROLLOUT_NOT_IN_STATE"
        await plane.register("m", text="1")
        await state(plane, "SOAKING")
        await plane.fleet.HaltFleetRollout(waves_pb2.HaltFleetRolloutRequest(validate_only=True))
        assert (await rollout(plane)).state == Rollout.STATE_SOAKING
        answer = await plane.fleet.HaltFleetRollout(waves_pb2.HaltFleetRolloutRequest(reason="it is Friday"))
        assert (answer.rollout.reason, answer.rollout.message) == ("OPERATOR", "it is Friday")
        assert (await rollout(plane)).state == Rollout.STATE_HALTED


async def test_a_policy_is_set_by_etag_and_checked(plane: ControlPlane) -> None:
    empty = (await plane.fleet.GetFleetPolicy(waves_pb2.GetFleetPolicyRequest())).policy
    assert not empty.waves
    policy = await set_policy(plane)
    assert policy.etag not in ("", empty.etag)
    stale = waves_pb2.SetFleetPolicyRequest(policy=waves_pb2.FleetPolicy(), etag=empty.etag)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await plane.fleet.SetFleetPolicy(stale)
    assert reason_of(refused.value) == "ETAG_MISMATCH"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await set_policy(plane, waves=[waves_pb2.Wave(), waves_pb2.Wave(percent=10)])
    assert "waves[0]" in str(refused.value.details())
    cleared = await plane.fleet.SetFleetPolicy(
        waves_pb2.SetFleetPolicyRequest(policy=waves_pb2.FleetPolicy(), etag=policy.etag)
    )
    assert not cleared.policy.waves


async def test_a_held_rollout_survives_a_restart(tmp_path: Path) -> None:
    async with control_plane(tmp_path / "registry") as plane, fleet_with_policy(plane) as fleet:
        fleet.canary.doomed.add(2)
        await plane.register("m", text="1")
        await state(plane, "HALTED")
    async with control_plane(tmp_path / "registry") as plane, fleet.running(plane.address):
        await eventually(lambda: is_connected(plane, True, "second"))
        halted = await rollout(plane)
        assert (halted.state, halted.reason, halted.target.revision) == (Rollout.STATE_HALTED, "DOOMED", 2)
        await asyncio.sleep(0.1)
        assert fleet.revisions == [1, 1, 1]
        assert fleet.first.offered == [1]


async def test_a_data_plane_that_comes_back_is_sent_nothing_older_than_it_serves(plane: ControlPlane) -> None:
    soak = waves_pb2.Wave(labels=waves_pb2.LabelSelector(labels=CANARY))
    soak.soak.FromSeconds(3600)
    async with fleet_with_policy(plane, waves=[soak]) as fleet:
        await plane.register("m", text="1")
        await fleet.canary.active(2)
        await plane.fleet.HaltFleetRollout(waves_pb2.HaltFleetRolloutRequest())
    await eventually(lambda: is_connected(plane, False, "canary"))
    await plane.snapshots.RollbackCatalog(rollback_pb2.RollbackCatalogRequest(to_revision=1))
    rolling = await state(plane, "ROLLING")
    # It is not there, so nobody goes first. What everyone may have is older than what it serves.
    assert (rolling.stable.revision, rolling.target.revision, rolling.wave) == (1, 3, 1)
    async with fleet.running(plane.address):
        await fleet.canary.active(3)
        await state(plane, "SOAKING")
        assert fleet.canary.offered == [1, 2, 3]
        assert fleet.canary.rejected == []
        assert fleet.revisions == [3, 1, 1]


async def test_after_a_restart_a_canary_that_has_not_come_back_is_still_waited_for(tmp_path: Path) -> None:
    async with control_plane(tmp_path / "registry") as plane:
        async with fleet_with_policy(plane) as fleet:
            pass
        await eventually(lambda: is_connected(plane, False, "canary"))
    async with (
        control_plane(tmp_path / "registry") as plane,
        fleet.first.running(plane.address, "first", instance_uid="first"),
    ):
        await plane.register("m", text="1")
        rolling = await state(plane, "ROLLING")
        assert list(rolling.waiting_for) == ["dataPlanes/canary"]
        assert (rolling.wave, rolling.held_count) == (1, 3)


async def test_two_control_planes_hold_and_go_on_together(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = postgres_server.new_database()
    async with (
        control_plane(tmp_path, url=url, sharing=NOTIFIED) as first,
        control_plane(tmp_path, url=url, sharing=NOTIFIED) as second,
        fleet_with_policy(first, second) as fleet,
    ):
        # The policy was set at the first, and the change is made at the second.
        await second.register("m", text="1")
        await done(first, 2)
        await done(second, 2)
        assert fleet.revisions == [2, 2, 2]
        fleet.canary.doomed.add(3)
        await second.register("m", text="2")
        for control in (first, second):
            halted = await state(control, "HALTED")
            assert [harm.data_plane for harm in halted.hurt] == ["dataPlanes/canary"]
        await asyncio.sleep(0.1)
        assert fleet.revisions == [2, 2, 2]
        assert fleet.first.offered == fleet.second.offered == [1, 2]
        await second.fleet.ForceFleetRollout(waves_pb2.ForceFleetRolloutRequest())
        for data_plane in fleet.others:
            await data_plane.active(3)
