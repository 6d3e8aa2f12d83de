"""Snapshots and resource statuses on Sync streams, over real gRPC and a real store."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from broadsheet.v1 import api_key_pb2, registry_service_pb2, status_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.push.subscription.timing import Limits
from dataplane.ingress.access.api_keys import find_key
from dataplane.openai.errors import ApiKeyInvalid
from dataplane.snapshot.snapshot import Position
from dataplane.sync.stream.batches import messages_of
from dataplane.sync.stream.reconnecting import Timing
from tests.stream.sync_conditions import (
    holds,
    is_connected,
    reports_nothing,
    serves,
    shows,
    state_is,
)
from tests.stream.sync_world import TIMING, ControlPlane, DataPlane, control_plane, eventually, hello


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path / "registry") as running:
        yield running


async def test_a_commit_is_pushed_and_its_acknowledgement_is_shown(plane: ControlPlane) -> None:
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        await data_plane.active(0)
        revision = await plane.register("smol")
        snapshot = await data_plane.active(revision)
        assert set(snapshot.served) == {"smol"}
        assert (await plane.wait_for(revision, "dp")).active_everywhere
        shown = await plane.data_plane()
    assert shown.connected
    assert shown.serving.revision == shown.target.revision == revision
    assert shown.serving.digest == snapshot.position.digest
    assert shown.phase == pb.PHASE_ACTIVE
    assert (shown.instance_uid, shown.software_version) == ("instance-1", "9.9")
    assert shown.connect_time.seconds <= shown.last_seen_time.seconds


async def test_commits_arrive_in_order_and_may_be_skipped(plane: ControlPlane) -> None:
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        for number in range(30):
            await plane.register(f"m{number}")
        snapshot = await data_plane.active(30)
    assert len(snapshot.models) == 30
    assert all(before < after for before, after in itertools.pairwise(data_plane.activated))


async def test_a_commit_does_not_wait_for_a_heartbeat(tmp_path: Path) -> None:
    data_plane = DataPlane()
    async with (
        control_plane(tmp_path / "registry", limits=Limits()) as plane,
        data_plane.running(plane.address, timing=Timing()),
    ):
        await data_plane.active(0)
        await eventually(lambda: serves(plane, 0))
        await asyncio.sleep(0.2)  # nothing else can wake the stream now
        async with asyncio.timeout(Limits().heartbeat_s / 2):
            await data_plane.active(await plane.register("m1"))


async def test_commits_during_a_slow_activation_coalesce(plane: ControlPlane) -> None:
    decided = asyncio.Event()

    async def decide(position: Position) -> None:
        if position.revision:
            await decided.wait()

    data_plane = DataPlane(decide=decide)
    async with data_plane.running(plane.address):
        await data_plane.active(0)
        first = await plane.register("m0")
        await eventually(lambda: holds(first in data_plane.offered))
        for number in range(1, 20):
            await plane.register(f"m{number}")
        decided.set()
        await data_plane.active(20)
    assert data_plane.offered == [0, first, 20]


async def test_five_thousand_entries_arrive(plane: ControlPlane) -> None:
    revision = await plane.fill(5000, text="x" * 400)
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        snapshot = await data_plane.active(revision)
    assert len(snapshot.models) == 5000
    assert data_plane.offered == [revision]


async def test_api_keys_reach_data_planes_when_created_and_when_revoked(
    plane: ControlPlane,
) -> None:
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        limits = api_key_pb2.ApiKeyLimits(allowed_served_names=["a*"])
        request = api_key_pb2.CreateApiKeyRequest(api_key_id="alice", limits=limits)
        created = await plane.registry.CreateApiKey(request)
        snapshot = await data_plane.active(created.catalog_revision)
        key = find_key(snapshot.api_keys, created.key, now=0.0)
        assert (key.name, key.may_use("abc"), key.may_use("b")) == ("apiKeys/alice", True, False)
        revoked = await plane.registry.RevokeApiKey(api_key_pb2.RevokeApiKeyRequest(name="apiKeys/alice"))
        snapshot = await data_plane.active(revoked.catalog_revision)
        with pytest.raises(ApiKeyInvalid):
            find_key(snapshot.api_keys, created.key, now=0.0)
        assert snapshot.has_api_keys
        assert not snapshot.quarantined


async def test_resource_statuses_follow_every_change(plane: ControlPlane) -> None:
    states = status_pb2.ResourceState
    data_plane = DataPlane()
    await plane.register("smol")
    async with data_plane.running(plane.address):
        data_plane.report({"models/smol": states.RESOURCE_STATE_DEPLOYING, "models/other": states.RESOURCE_STATE_IDLE})
        await eventually(lambda: state_is(plane, states.RESOURCE_STATE_DEPLOYING))
        data_plane.report({"models/smol": states.RESOURCE_STATE_READY})
        await eventually(lambda: state_is(plane, states.RESOURCE_STATE_READY))
        assert [resource.name for resource in (await plane.data_plane()).resources] == ["models/smol"]
    await eventually(lambda: is_connected(plane, False))
    model = (await plane.registry.GetModel(registry_service_pb2.GetModelRequest(name="models/smol"))).model
    assert [(status.data_plane, status.connected) for status in model.statuses] == [("dataPlanes/dp", False)]
    async with data_plane.running(plane.address, instance_uid="instance-2"):
        await data_plane.until(lambda: data_plane.connections[-1].connected)
        await eventually(lambda: reports_nothing(plane))


@pytest.mark.parametrize(("features", "kinds"), [([], ["intent", "chunk", "commit"]), ([pb.FEATURE_BATCH], ["batch"])])
async def test_a_small_snapshot_is_one_message_for_a_client_that_takes_batches(
    plane: ControlPlane, features: list[pb.Feature.ValueType], kinds: list[str]
) -> None:
    await plane.register("a")
    stream = plane.snapshots.Sync()
    await stream.write(hello(features=features))
    messages = [message for message in [await stream.read() for _ in kinds] if isinstance(message, pb.SyncResponse)]
    assert [message.WhichOneof("message") for message in messages] == kinds
    parts = [part for message in messages for part in messages_of(message)]
    assert [part.WhichOneof("message") for part in parts] == ["intent", "chunk", "commit"]
    stream.cancel()


async def test_a_decision_that_takes_long_is_preceded_by_the_report_that_the_snapshot_has_arrived(
    plane: ControlPlane,
) -> None:
    goes_on = asyncio.Event()

    async def decide(_: Position) -> None:
        await goes_on.wait()

    data_plane = DataPlane(decide=decide)
    async with data_plane.running(plane.address, timing=replace(TIMING, received_after_s=0.01)):
        await eventually(lambda: is_connected(plane, True))
        await eventually(lambda: shows(plane, pb.PHASE_RECEIVED))
        goes_on.set()
        await eventually(lambda: shows(plane, pb.PHASE_ACTIVE))
