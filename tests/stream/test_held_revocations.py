"""Revocations of API keys go everywhere at once, also where a halted wave holds snapshots back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf import duration_pb2

from broadsheet.v1 import waves_pb2
from tests.stream.sync_world import ControlPlane, control_plane, eventually
from tests.stream.test_sync_revocations import applies, create, revoke
from tests.stream.test_waves import CANARY, done, fleet_with_policy, state

SOAKING = [
    waves_pb2.Wave(labels=waves_pb2.LabelSelector(labels=CANARY), soak=duration_pb2.Duration(seconds=3600)),
    waves_pb2.Wave(),
]


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path / "registry") as running:
        yield running


async def test_a_revocation_reaches_those_that_a_halted_wave_holds_back(plane: ControlPlane) -> None:
    async with fleet_with_policy(plane) as fleet:
        created = await create(plane)
        await done(plane, created.catalog_revision)
        await plane.fleet.SetFleetPolicy(waves_pb2.SetFleetPolicyRequest(policy=waves_pb2.FleetPolicy(waves=SOAKING)))
        await fleet.canary.active(await plane.register("m", text="1"))
        await state(plane, "SOAKING")
        await plane.fleet.HaltFleetRollout(waves_pb2.HaltFleetRolloutRequest())
        await state(plane, "HALTED")
        revoked = await revoke(plane)
        for name in ("canary", "first", "second"):
            await eventually(lambda name=name: applies(plane, revoked.revocations_sequence, name))  # type: ignore[misc]
        assert [other.snapshot.position.revision for other in fleet.others if other.snapshot] == [
            created.catalog_revision
        ] * 2, "their snapshot still has the key"
        for other in fleet.others:
            assert created.api_key.uid in set(other.revoked.held)
