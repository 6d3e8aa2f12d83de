"""Snapshots that a data plane rejects, or accepts in part."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broadsheet.v1 import fleet_service_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.settings import Settings
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.rejection import STORE_UID_MISMATCH
from dataplane.snapshot.snapshot import Position, Snapshot
from dataplane.sync.directory import CRASHED_REPEATEDLY
from dataplane.sync.keeper import SnapshotKeeper
from dataplane.sync.stored.booting import CRASHES_MAX
from tests.raw import POLICY
from tests.revoking import IngressInMemory
from tests.stream.sync_conditions import (
    is_connected,
    serves,
    shows,
)
from tests.stream.sync_world import ControlPlane, DataPlane, control_plane, eventually

Outcome = fleet_service_pb2.DataPlaneOutcome


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path / "registry") as running:
        yield running


async def test_a_rejection_is_shown_with_its_reason_and_not_sent_again(plane: ControlPlane) -> None:
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        good = await plane.register("good")
        await data_plane.active(good)
        data_plane.doomed = {good + 1}
        bad = await plane.register("bad")
        await data_plane.until(lambda: bool(data_plane.rejected))
        (outcome,) = (await plane.wait_for(bad, "dp")).outcomes
        shown = await plane.data_plane()
    assert (outcome.outcome, outcome.reason, outcome.serving.revision) == (Outcome.OUTCOME_REJECTED, "DOOMED", good)
    assert (shown.phase, shown.reason, shown.message) == (pb.PHASE_REJECTED, "DOOMED", "the test rejects it")
    assert (shown.serving.revision, shown.target.revision) == (good, bad)

    offered = len(data_plane.offered)
    for instance_uid in ("instance-1", "instance-2"):
        async with data_plane.running(plane.address, instance_uid=instance_uid):
            await eventually(lambda: is_connected(plane, True))
            (outcome,) = (await plane.wait_for(bad, "dp")).outcomes
            assert (outcome.outcome, outcome.reason) == (Outcome.OUTCOME_REJECTED, "DOOMED")
            assert len(data_plane.offered) == offered
    async with data_plane.running(plane.address):
        better = await plane.register("better")
        assert set((await data_plane.active(better)).served) == {"good", "bad", "better"}
        assert (await plane.wait_for(bad, "dp")).active_everywhere


async def test_quarantined_resources_make_the_revision_active_with_errors(plane: ControlPlane) -> None:
    data_plane = DataPlane(Policy(allowed_sources=("hf://",)))
    async with data_plane.running(plane.address):
        await plane.register("fine")
        revision = await plane.register("elsewhere", source={"uri": "file:///models/elsewhere"})
        snapshot = await data_plane.active(revision)
        (outcome,) = (await plane.wait_for(revision, "dp")).outcomes
    assert set(snapshot.served) == {"fine"}
    assert outcome.outcome == Outcome.OUTCOME_ACTIVE_WITH_ERRORS


async def test_another_store_is_rejected_and_shown(plane: ControlPlane, tmp_path: Path) -> None:
    data_plane = DataPlane()
    async with control_plane(tmp_path / "before") as before:
        await before.register("of-before")
        async with data_plane.running(before.address):
            held = await data_plane.active(1)
    async with data_plane.running(plane.address):
        await data_plane.until(lambda: bool(data_plane.rejected))
        await eventually(lambda: shows(plane, pb.PHASE_REJECTED))
        shown = await plane.data_plane()
        (outcome,) = (await plane.wait_for(0, "dp")).outcomes
    assert shown.reason == STORE_UID_MISMATCH
    assert shown.serving.store_uid == held.position.store_uid
    assert outcome.outcome == Outcome.OUTCOME_REJECTED
    assert data_plane.snapshot is held

    data_plane.policy = Policy(allowed_sources=POLICY.allowed_sources, allow_new_store=True)
    async with data_plane.running(plane.address, instance_uid="instance-2"):
        await data_plane.until(lambda: data_plane.snapshot is not held)
        assert (await plane.wait_for(0, "dp")).active_everywhere


async def test_a_failing_agent_rejects_the_snapshot_and_continues(plane: ControlPlane) -> None:
    async def decide(position: Position) -> None:
        if position.revision == 1:
            raise RuntimeError("a fault of the agent")

    data_plane = DataPlane(decide=decide)
    async with data_plane.running(plane.address):
        await data_plane.active(0)
        await plane.register("m1")
        await data_plane.until(lambda: bool(data_plane.rejected))
        assert data_plane.rejected[0].reason == "DECISION_FAILED"
        assert "fault" not in data_plane.rejected[0].message
        await data_plane.active(await plane.register("m2"))


async def test_a_snapshot_that_crashed_repeatedly_is_sent_again_after_a_while(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """Without another commit, which would be sent anyway."""
    settings = Settings(data_dir=tmp_path, data_plane_id="dp", controlplane=plane.address)
    activated: list[int] = []

    async def activate(snapshot: Snapshot) -> None:
        activated.append(snapshot.position.revision)

    @asynccontextmanager
    async def running(*, retry_crashed_s: float) -> AsyncIterator[None]:
        keeper = SnapshotKeeper(
            settings,
            instance_uid=uuid.uuid4().hex,
            policy=POLICY,
            activate=activate,
            ingress=IngressInMemory(),
            retry_crashed_s=retry_crashed_s,
        )
        await keeper.load()
        task = asyncio.create_task(keeper.run())
        yield
        task.cancel()
        await asyncio.wait([task])

    before = await plane.register("before")
    async with running(retry_crashed_s=60):
        await eventually(lambda: is_connected(plane, True))
        await eventually(lambda: serves(plane, before))
        head = await plane.register("head")
        await eventually(lambda: serves(plane, head))
    probation = tmp_path / "snapshots" / "PROBATION"
    crashed = {"file": json.loads(probation.read_text())["file"], "crashes": CRASHES_MAX - 1}
    probation.write_text(json.dumps(crashed))
    async with running(retry_crashed_s=60):
        await eventually(lambda: shows(plane, pb.PHASE_REJECTED))
        assert (await plane.data_plane()).reason == CRASHED_REPEATEDLY
    async with running(retry_crashed_s=0.3):
        await eventually(lambda: serves(plane, head))
    assert activated == [before, head, before, before, head]
