"""The push protocol over real gRPC, on a real store."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from broadsheet.v1 import api_key_pb2, fleet_service_pb2, registry_service_pb2, status_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from controlplane.catalog.domain import DataPlaneRecord
from controlplane.push.subscription.timing import Limits
from controlplane.store.store import Store
from dataplane.ingress.access.api_keys import find_key
from dataplane.openai.errors import ApiKeyInvalid
from dataplane.snapshot.accept import accept
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.rejection import STORE_UID_MISMATCH
from dataplane.snapshot.snapshot import Position
from dataplane.sync.client import SyncCall, Timing
from dataplane.sync.directory import SnapshotDirectory
from tests.raw import POLICY
from tests.stream.sync_world import LIMITS, TIMING, ControlPlane, DataPlane, control_plane, eventually, hello

Outcome = fleet_service_pb2.DataPlaneOutcome


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path / "registry") as running:
        yield running


# --- snapshots


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


async def test_every_commit_arrives_or_is_overtaken_in_order(plane: ControlPlane) -> None:
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
        await eventually(lambda: _serves(plane, 0))
        await asyncio.sleep(0.2)  # nothing is under way any more that could wake the stream
        async with asyncio.timeout(Limits().heartbeat_s / 2):
            await data_plane.active(await plane.register("m1"))


async def test_commits_during_a_slow_activation_coalesce(plane: ControlPlane) -> None:
    going_on = asyncio.Event()

    async def decide(position: Position) -> None:
        if position.revision:
            await going_on.wait()

    data_plane = DataPlane(decide=decide)
    async with data_plane.running(plane.address):
        await data_plane.active(0)
        first = await plane.register("m0")
        await eventually(lambda: _is(first in data_plane.offered))
        for number in range(1, 20):
            await plane.register(f"m{number}")
        going_on.set()
        await data_plane.active(20)
    assert data_plane.offered == [0, first, 20]


async def test_five_thousand_entries_arrive_whole(plane: ControlPlane) -> None:
    revision = await plane.fill(5000, text="x" * 400)
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        snapshot = await data_plane.active(revision)
    assert len(snapshot.models) == 5000
    assert data_plane.offered == [revision]


# --- rejections


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
    assert (shown.phase, shown.reason, shown.message) == (pb.PHASE_REJECTED, "DOOMED", "it was to be refused")
    assert (shown.serving.revision, shown.target.revision) == (good, bad)

    offered = len(data_plane.offered)
    for instance_uid in ("instance-1", "instance-2"):
        async with data_plane.running(plane.address, instance_uid=instance_uid):
            await eventually(lambda: _is_connected(plane, True))
            (outcome,) = (await plane.wait_for(bad, "dp")).outcomes
            assert (outcome.outcome, outcome.reason) == (Outcome.OUTCOME_REJECTED, "DOOMED")
            assert len(data_plane.offered) == offered
    async with data_plane.running(plane.address):
        better = await plane.register("better")
        assert set((await data_plane.active(better)).served) == {"good", "bad", "better"}
        assert (await plane.wait_for(bad, "dp")).active_everywhere


async def test_quarantined_resources_are_told_as_active_with_errors(plane: ControlPlane) -> None:
    data_plane = DataPlane(Policy(allowed_sources=("hf://",)))
    async with data_plane.running(plane.address):
        await plane.register("fine")
        revision = await plane.register("elsewhere", source={"uri": "file:///models/elsewhere"})
        snapshot = await data_plane.active(revision)
        (outcome,) = (await plane.wait_for(revision, "dp")).outcomes
    assert set(snapshot.served) == {"fine"}
    assert outcome.outcome == Outcome.OUTCOME_ACTIVE_WITH_ERRORS


async def test_another_store_is_refused_and_shown(plane: ControlPlane, tmp_path: Path) -> None:
    data_plane = DataPlane()
    async with control_plane(tmp_path / "before") as before:
        await before.register("of-before")
        async with data_plane.running(before.address):
            held = await data_plane.active(1)
    async with data_plane.running(plane.address):
        await data_plane.until(lambda: bool(data_plane.rejected))
        await eventually(lambda: _shows(plane, pb.PHASE_REJECTED))
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


async def test_an_agent_that_fails_rejects_and_goes_on(plane: ControlPlane) -> None:
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


# --- connections


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_restarted_control_plane_is_found_again(tmp_path: Path, orderly: bool) -> None:
    data_plane = DataPlane()
    async with control_plane(tmp_path / "registry", orderly=orderly) as first:
        address = first.address
        client = data_plane.running(address)
        await client.__aenter__()
        await first.register("m1")
        await data_plane.active(1)
    await data_plane.until(lambda: not data_plane.connections[-1].connected)
    await asyncio.sleep(0.3)
    assert data_plane.snapshot is not None
    async with control_plane(tmp_path / "registry", listen=address) as second:
        revision = await second.register("m2")
        assert set((await data_plane.active(revision)).served) == {"m1", "m2"}
        await client.__aexit__(None, None, None)
    assert data_plane.activated[-2:] == [1, 2]


async def test_what_was_known_of_a_data_plane_outlives_the_control_plane(tmp_path: Path) -> None:
    data_plane = DataPlane()
    async with control_plane(tmp_path / "registry") as first, data_plane.running(first.address):
        await first.register("m1")
        await first.wait_for(1, "dp")
    async with control_plane(tmp_path / "registry") as second:
        shown = await second.data_plane()
        assert not shown.connected
        assert (shown.serving.revision, shown.phase) == (1, pb.PHASE_ACTIVE)
        (outcome,) = (await second.wait_for(1)).outcomes
        assert (outcome.outcome, outcome.serving.revision) == (Outcome.OUTCOME_MISSING, 1)
        response = await second.fleet.ListDataPlanes(fleet_service_pb2.ListDataPlanesRequest())
        assert [one.name for one in response.data_planes] == ["dataPlanes/dp"]


async def test_a_second_stream_takes_the_place_of_the_first(plane: ControlPlane) -> None:
    first, second = DataPlane(), DataPlane()
    async with first.running(plane.address):
        await first.active(0)
        async with second.running(plane.address, instance_uid="instance-2"):
            await second.active(0)
            await first.until(lambda: not first.connections[-1].connected)
            assert first.connections[-1].last_error == "GOODBYE: SUPERSEDED"
            await second.active(await plane.register("m1"))
            await plane.wait_for(1, "dp")
            shown = await plane.data_plane()
            assert (shown.connected, shown.instance_uid) == (True, "instance-2")
            await asyncio.sleep(0.5)  # the first was asked to stay away for longer
            assert [one.connected for one in first.connections] == [True, False]
            assert [one.connected for one in second.connections] == [True]
    assert first.activated == [0]


async def test_a_lost_connection_is_shown_and_made_again(plane: ControlPlane) -> None:
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        await data_plane.active(0)
    await eventually(lambda: _is_connected(plane, False))
    async with data_plane.running(plane.address):
        await eventually(lambda: _is_connected(plane, True))


async def test_a_server_that_says_nothing_is_left(tmp_path: Path) -> None:
    server = grpc.aio.server()
    silence = asyncio.Event()

    async def say_nothing(request_iterator: AsyncIterator[pb.SyncRequest], context: object) -> None:
        await silence.wait()

    handler = grpc.stream_stream_rpc_method_handler(
        say_nothing, pb.SyncRequest.FromString, pb.SyncResponse.SerializeToString
    )
    generic = grpc.method_handlers_generic_handler("broadsheet.v1.SnapshotService", {"Sync": handler})
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    data_plane = DataPlane()
    async with data_plane.running(f"127.0.0.1:{port}"):
        await data_plane.until(lambda: len(data_plane.connections) >= 2)
    silence.set()
    await server.stop(0)
    assert data_plane.connections[0].last_error.startswith("SILENT")
    assert not any(one.connected for one in data_plane.connections)


async def test_a_decision_that_takes_too_long_ends_the_stream_and_still_counts(tmp_path: Path) -> None:
    limits = Limits(heartbeat_s=0.1, answer_timeout_s=0.5, silence_timeout_s=5.0)
    going_on = asyncio.Event()

    async def decide(position: Position) -> None:
        if position.revision:
            await going_on.wait()

    data_plane = DataPlane(decide=decide)
    async with control_plane(tmp_path / "registry", limits=limits) as plane, data_plane.running(plane.address):
        await data_plane.active(0)
        await plane.register("m1")
        await data_plane.until(lambda: data_plane.connections[-1].last_error == "GOODBYE: ANSWER_TIMEOUT")
        await asyncio.sleep(1.5)  # the stream would be open again, had the decision not to come first
        assert not data_plane.connections[-1].connected
        going_on.set()
        await data_plane.active(1)
        assert (await plane.wait_for(1, "dp", timeout_s=0)).outcomes[0].outcome != Outcome.OUTCOME_ACTIVE
        await eventually(lambda: _serves(plane, 1))
        assert data_plane.offered == [0, 1]


async def test_a_data_plane_whose_file_is_damaged_is_sent_its_snapshot_again(
    plane: ControlPlane, tmp_path: Path
) -> None:
    data_plane = DataPlane()
    disk = SnapshotDirectory(tmp_path / "catalog")
    disk.open()
    async with data_plane.running(plane.address):
        for number in (1, 2):
            snapshot = await data_plane.active(await plane.register(f"m{number}"))
            disk.save(snapshot)
    disk.close()
    current = (tmp_path / "catalog" / "CURRENT").read_text().strip()
    (tmp_path / "catalog" / "snapshots" / current).write_bytes(b"damage")

    disk.open()
    boot = disk.boot(functools.partial(accept, held=None, policy=POLICY))
    assert boot.snapshot is not None
    assert boot.snapshot.position.revision == 1
    restarted = DataPlane()
    restarted.snapshot = boot.snapshot
    restarted.rejected = list(boot.rejected)
    async with restarted.running(plane.address, instance_uid="instance-2"):
        await restarted.active(2)
    disk.close()


# --- who does not behave


async def test_a_stalled_reader_costs_little_and_blocks_nobody(tmp_path: Path) -> None:
    limits = Limits(heartbeat_s=0.1, hello_timeout_s=0.5, answer_timeout_s=60.0, silence_timeout_s=8.0)
    async with control_plane(tmp_path / "registry", limits=limits) as plane:
        revision = await plane.fill(1500, text="x" * 16_000)
        async with grpc.aio.insecure_channel(plane.address) as channel:
            stalled = SnapshotServiceStub(channel).Sync()
            await stalled.write(hello("stalled"))
            await eventually(lambda: _is_connected(plane, True, "stalled"))
            data_plane = DataPlane()
            async with data_plane.running(plane.address):
                snapshot = await data_plane.active(revision)
                assert len(snapshot.models) == 1500
                (stream,) = (stream for stream in plane.fan_out._streams if stream.data_plane_id == "stalled")
                # 24 MB are to be sent; without a reader gRPC takes about 4 MiB.
                written = stream.subscription.chunks_written
                assert written <= 8
                for number in range(5):
                    await data_plane.active(await plane.register(f"n{number}"))
                assert stream.subscription.chunks_written == written
                (mine, other) = (await plane.wait_for(revision + 5, "dp", "stalled", timeout_s=0)).outcomes
                assert (mine.outcome, other.outcome) == (Outcome.OUTCOME_ACTIVE, Outcome.OUTCOME_PENDING)
                await eventually(lambda: _is_connected(plane, False, "stalled"))
            stalled.cancel()


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (pb.SyncRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.SyncRequest(status=pb.Status()), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.SyncRequest(hello=pb.Hello(data_plane="NOT AN ID")), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_the_first_message_must_be_a_valid_hello(
    plane: ControlPlane, first: pb.SyncRequest, code: grpc.StatusCode
) -> None:
    call = plane.snapshots.Sync()
    await call.write(first)
    assert await call.code() == code
    response = await plane.fleet.ListDataPlanes(fleet_service_pb2.ListDataPlanesRequest())
    assert not response.data_planes


async def test_an_illegal_status_ends_the_stream(plane: ControlPlane) -> None:
    call = plane.snapshots.Sync()
    await call.write(hello())
    await call.read()
    await call.write(hello())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await _read_to_the_end(call)
    assert raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    await eventually(lambda: _is_connected(plane, False))


async def test_who_says_nothing_is_not_waited_for(plane: ControlPlane) -> None:
    call = plane.snapshots.Sync()
    async with asyncio.timeout(LIMITS.hello_timeout_s + 5):
        assert await call.code() == grpc.StatusCode.UNAVAILABLE


class FailingStore:
    """The real store, except that data planes cannot be written for a while."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.failing = True
        self.get_data_plane = store.get_data_plane
        self.read_entries = store.read_entries

    async def upsert_data_plane(self, record: DataPlaneRecord) -> None:
        if self.failing:
            raise OSError("the disk is full")
        await self._store.upsert_data_plane(record)


async def test_a_store_that_fails_ends_no_stream_and_catches_up(tmp_path: Path) -> None:
    stores: list[FailingStore] = []

    def wrap(store: Store) -> FailingStore:
        stores.append(FailingStore(store))
        return stores[0]

    data_plane = DataPlane()
    async with control_plane(tmp_path / "registry", wrap_store=wrap) as plane, data_plane.running(plane.address):
        await data_plane.active(await plane.register("m1"))
        assert (await plane.wait_for(1, "dp")).active_everywhere
        assert await plane.store.get_data_plane("dp") is None
        stores[0].failing = False
        await eventually(lambda: _is_kept(plane))
        assert [one.connected for one in data_plane.connections] == [True]


# --- statuses of resources


async def test_states_of_resources_are_shown_and_follow_every_change(plane: ControlPlane) -> None:
    states = status_pb2.ResourceState
    data_plane = DataPlane()
    await plane.register("smol")
    async with data_plane.running(plane.address):
        data_plane.report({"models/smol": states.RESOURCE_STATE_DEPLOYING, "models/other": states.RESOURCE_STATE_IDLE})
        await eventually(lambda: _state_is(plane, states.RESOURCE_STATE_DEPLOYING))
        data_plane.report({"models/smol": states.RESOURCE_STATE_READY})
        await eventually(lambda: _state_is(plane, states.RESOURCE_STATE_READY))
        assert [one.name for one in (await plane.data_plane()).resources] == ["models/smol"]
    await eventually(lambda: _is_connected(plane, False))
    model = (await plane.registry.GetModel(registry_service_pb2.GetModelRequest(name="models/smol"))).model
    assert [(one.data_plane, one.connected) for one in model.statuses] == [("dataPlanes/dp", False)]
    async with data_plane.running(plane.address, instance_uid="instance-2"):
        await data_plane.until(lambda: data_plane.connections[-1].connected)
        await eventually(lambda: _reports_nothing(plane))


# --- waiting


async def test_waiting_tells_pending_and_missing_apart(plane: ControlPlane) -> None:
    call = plane.snapshots.Sync()
    await call.write(hello("slow"))
    await call.read()
    response = await plane.wait_for(0, "slow", "unheard-of", timeout_s=0.1)
    assert [one.outcome for one in response.outcomes] == [Outcome.OUTCOME_PENDING, Outcome.OUTCOME_MISSING]
    assert not response.active_everywhere
    call.cancel()


async def test_waiting_answers_when_it_happens(plane: ControlPlane) -> None:
    data_plane = DataPlane()
    going_on = asyncio.Event()

    async def decide(position: Position) -> None:
        await going_on.wait()

    data_plane = DataPlane(decide=decide)
    async with data_plane.running(plane.address):
        await eventually(lambda: _is_connected(plane, True))
        waiting = asyncio.create_task(plane.wait_for(0))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        going_on.set()
        response = await waiting
    assert [one.outcome for one in response.outcomes] == [Outcome.OUTCOME_ACTIVE]
    assert response.active_everywhere


async def test_with_no_data_plane_nothing_is_active(plane: ControlPlane) -> None:
    response = await plane.wait_for(0)
    assert not response.outcomes
    assert not response.active_everywhere


async def test_nobody_waits_for_a_revision_that_does_not_exist(plane: ControlPlane) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await plane.wait_for(1)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_unknown_data_plane_is_not_found(plane: ControlPlane) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await plane.data_plane("nobody")
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


async def test_data_planes_are_listed_in_pages(plane: ControlPlane) -> None:
    ids = [f"dp-{number}" for number in range(5)]
    calls = [plane.snapshots.Sync() for _ in ids]
    for call, data_plane_id in zip(calls, ids, strict=True):
        await call.write(hello(data_plane_id))
        await call.read()
    listed, token = [], ""
    while True:
        request = fleet_service_pb2.ListDataPlanesRequest(page_size=2, page_token=token)
        page = await plane.fleet.ListDataPlanes(request)
        listed += [one.name for one in page.data_planes]
        token = page.next_page_token
        if not token:
            break
    assert listed == [f"dataPlanes/{one}" for one in ids]
    for call in calls:
        call.cancel()


# --- stopping


async def test_a_stopped_client_leaves_no_task_behind(plane: ControlPlane) -> None:
    before = asyncio.all_tasks()
    data_plane = DataPlane()
    async with data_plane.running(plane.address, timing=TIMING):
        await data_plane.active(0)
    await eventually(lambda: _is_connected(plane, False))
    await eventually(lambda: _is(not {one for one in asyncio.all_tasks() - before if "sync_client" in repr(one)}))


async def test_reconnects_spread_out(plane: ControlPlane) -> None:
    """Full jitter, from the first try on, also after a Goodbye."""
    data_plane = DataPlane()
    async with data_plane.running(plane.address) as client:
        await data_plane.active(0)
        waits: list[tuple[float, float]] = []

        def uniform(low: float, high: float) -> float:
            waits.append((low, high))
            return low

        client._uniform = uniform
        await plane.fan_out.shutdown()
        await data_plane.until(lambda: len(waits) >= 3)
    assert all(low == 0.0 for low, _ in waits)
    assert [high for _, high in waits[:3]] == [0.04, 0.08, 0.1]


async def _read_to_the_end(call: SyncCall) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def _is(condition: bool) -> bool:
    return condition


async def _shows(plane: ControlPlane, phase: pb.Phase.ValueType) -> bool:
    return (await plane.data_plane()).phase == phase


async def _serves(plane: ControlPlane, revision: int) -> bool:
    shown = await plane.data_plane()
    return shown.connected and shown.serving.revision == revision


async def _is_connected(plane: ControlPlane, connected: bool, data_plane_id: str = "dp") -> bool:
    try:
        return (await plane.data_plane(data_plane_id)).connected is connected
    except grpc.aio.AioRpcError:
        return False


async def _is_kept(plane: ControlPlane) -> bool:
    record = await plane.store.get_data_plane("dp")
    return record is not None and record.phase == pb.PHASE_ACTIVE


async def _state_is(plane: ControlPlane, state: status_pb2.ResourceState.ValueType) -> bool:
    model = (await plane.registry.GetModel(registry_service_pb2.GetModelRequest(name="models/smol"))).model
    return [one.status.state for one in model.statuses] == [state]


async def _reports_nothing(plane: ControlPlane) -> bool:
    return not (await plane.data_plane()).resources


async def test_a_key_is_with_the_data_planes_as_soon_as_it_is_made_and_gone_as_soon_as_it_is_revoked(
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
