"""Revocations of API keys reach data planes beside snapshots, over real gRPC."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from sqlalchemy import insert, update
from structlog.testing import capture_logs

from broadsheet.v1 import api_key_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from controlplane.catalog.convert import position_to_proto
from controlplane.catalog.domain import Position
from controlplane.store.backup import backup as store_backup
from controlplane.store.databases.connection import WriteConnection
from controlplane.store.schema import catalog
from controlplane.store.schema import revocations as table
from controlplane.store.store import Store
from dataplane.ingress.access.api_keys import find_key
from dataplane.openai import errors as openai_errors
from dataplane.settings import Settings
from dataplane.snapshot.rejection import STORE_UID_MISMATCH
from dataplane.snapshot.snapshot import Snapshot
from dataplane.sync.channel import insecure_channel
from dataplane.sync.client import SyncCall
from dataplane.sync.keeper import SnapshotKeeper
from tests.postgres_server import PostgresServer
from tests.raw import POLICY
from tests.revoking import IngressInMemory, batch
from tests.stream.sync_conditions import chunks_written, is_connected, serves, shows
from tests.stream.sync_world import ControlPlane, DataPlane, control_plane, eventually, hello
from tests.stream.test_replicas import NOTIFIED


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path) as running:
        yield running


async def create(plane: ControlPlane, key_id: str = "alice") -> api_key_pb2.CreateApiKeyResponse:
    limits = api_key_pb2.ApiKeyLimits(allowed_served_names=["*"])
    request = api_key_pb2.CreateApiKeyRequest(api_key_id=key_id, limits=limits)
    response: api_key_pb2.CreateApiKeyResponse = await plane.registry.CreateApiKey(request)
    return response


async def revoke(plane: ControlPlane, key_id: str = "alice") -> api_key_pb2.RevokeApiKeyResponse:
    request = api_key_pb2.RevokeApiKeyRequest(name=f"apiKeys/{key_id}")
    response: api_key_pb2.RevokeApiKeyResponse = await plane.registry.RevokeApiKey(request)
    return response


async def applies(plane: ControlPlane, sequence: int, data_plane_id: str = "dp") -> bool:
    if not await is_connected(plane, True, data_plane_id):
        return False
    shown = await plane.data_plane(data_plane_id)
    return (shown.revocations_sequence, shown.revocations_missing) == (sequence, 0)


class Agent:
    """A whole agent at its end of the stream: real disk, and an ingress that outlives it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ingress = IngressInMemory()
        self.keeper: SnapshotKeeper | None = None

    @asynccontextmanager
    async def running(self, address: str) -> AsyncIterator[SnapshotKeeper]:
        async def activate(snapshot: Snapshot) -> None:
            pass

        settings = Settings(data_dir=self._directory, data_plane_id="dp", controlplane=address)
        self.keeper = keeper = SnapshotKeeper(
            settings, instance_uid=uuid.uuid4().hex, policy=POLICY, activate=activate, ingress=self.ingress
        )
        await keeper.load()
        task = asyncio.create_task(keeper.run())
        await asyncio.sleep(0)
        try:
            yield keeper
        finally:
            task.cancel()
            await asyncio.wait([task])

    def lets_in(self, key: str) -> bool:
        assert self.keeper is not None
        assert self.keeper.snapshot is not None
        try:
            find_key(self.keeper.snapshot.api_keys, key, now=0.0, revoked=self.ingress.revoked)
        except openai_errors.ApiKeyInvalid:
            return False
        return True


async def test_a_revocation_reaches_a_data_plane_that_rejected_the_snapshot(plane: ControlPlane) -> None:
    data_plane = DataPlane()
    async with data_plane.running(plane.address):
        created = await create(plane)
        await data_plane.active(created.catalog_revision)
        data_plane.doomed = {created.catalog_revision + 1, created.catalog_revision + 2}
        await plane.register("bad")
        await data_plane.until(lambda: bool(data_plane.rejected))
        revoked = await revoke(plane)
        await eventually(lambda: applies(plane, 1))
        await eventually(lambda: shows(plane, pb.PHASE_REJECTED))
    assert revoked.revocations_sequence == 1
    assert list(data_plane.revoked.held) == [created.api_key.uid]
    assert data_plane.snapshot is not None
    assert created.api_key.uid in {key.uid for key in data_plane.snapshot.api_keys.values()}, "it is live there"


async def test_a_revocation_does_not_wait_for_the_answer_to_a_snapshot(plane: ControlPlane) -> None:
    go_on = asyncio.Event()

    async def decide(position: object) -> None:
        if getattr(position, "revision", 0) > 1:
            await go_on.wait()

    data_plane = DataPlane(decide=decide)
    async with data_plane.running(plane.address):
        created = await create(plane)
        await data_plane.active(created.catalog_revision)
        await plane.register("slow")
        await data_plane.until(lambda: len(data_plane.offered) > 1)
        await revoke(plane)
        await eventually(lambda: applies(plane, 1))
        assert data_plane.snapshot is not None
        assert data_plane.snapshot.position.revision == created.catalog_revision
        go_on.set()


async def messages(call: SyncCall, *, until: str) -> list[pb.SyncResponse]:
    """What arrives, up to the first message of this kind."""
    got = list[pb.SyncResponse]()
    async with asyncio.timeout(20):
        while not got or got[-1].WhichOneof("message") != until:
            response = await call.read()
            assert isinstance(response, pb.SyncResponse)
            got.append(response)
    return got


async def test_a_revocation_overtakes_a_snapshot_that_is_held_up_by_its_reader(plane: ControlPlane) -> None:
    created = await create(plane)
    await plane.fill(60, text="x" * 200_000)
    async with insecure_channel(plane.address) as channel:
        call = SnapshotServiceStub(channel).Sync()
        await call.write(hello(features=[pb.FEATURE_REVOCATIONS]))
        await messages(call, until="chunk")
        await asyncio.sleep(0.2)  # what the connection takes is written, and the writer is held up
        (stream,) = plane.fan_out._streams
        written = chunks_written(stream)
        await revoke(plane)
        kinds = [response.WhichOneof("message") for response in await messages(call, until="commit")]
        call.cancel()
    assert kinds.count("revocations") == 1
    assert kinds.index("revocations") <= written + 1, "only what was written before comes first"
    assert kinds.index("revocations") < len(kinds) - 3
    assert created.api_key.uid


async def test_a_data_plane_of_an_earlier_release_gets_none(plane: ControlPlane) -> None:
    await create(plane)
    await revoke(plane)
    async with insecure_channel(plane.address) as channel:
        call = SnapshotServiceStub(channel).Sync()
        await call.write(hello())
        kinds = {response.WhichOneof("message") for response in await messages(call, until="commit")}
        await create(plane, "bob")
        await revoke(plane, "bob")
        kinds |= {response.WhichOneof("message") for response in await messages(call, until="heartbeat")}
        call.cancel()
    assert "revocations" not in kinds


async def test_a_data_plane_that_was_away_gets_what_it_lacks_with_its_hello(
    plane: ControlPlane, tmp_path: Path
) -> None:
    agent = Agent(tmp_path / "agent")
    keys = [await create(plane, name) for name in ("a", "b", "c")]
    async with agent.running(plane.address):
        await revoke(plane, "a")
        await eventually(lambda: applies(plane, 1))
    await revoke(plane, "b")
    assert (await plane.data_plane()).revocations_missing == 1
    with capture_logs() as logs:
        async with agent.running(plane.address):
            await eventually(lambda: applies(plane, 2))
            await eventually(lambda: serves(plane, 5))
    assert [log["keys"] for log in logs if log["event"] == "keys_revoked"] == [1], "only what it lacked"
    assert list(agent.ingress.revoked) == [key.api_key.uid for key in keys[:2]]
    assert agent.lets_in(keys[2].key)
    assert not agent.lets_in(keys[1].key)


async def test_a_revocation_at_one_control_plane_reaches_the_data_planes_of_the_other(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.new_database()
    async with (
        control_plane(tmp_path, url=url, sharing=NOTIFIED) as first,
        control_plane(tmp_path, url=url, sharing=NOTIFIED) as second,
    ):
        data_plane = DataPlane()
        async with data_plane.running(second.address):
            created = await create(first)
            await data_plane.active(created.catalog_revision)
            data_plane.doomed = {created.catalog_revision + 1}
            await revoke(first)
            await eventually(lambda: applies(second, 1))
            await eventually(lambda: applies(first, 1))
        assert list(data_plane.revoked.held) == [created.api_key.uid]


async def test_what_was_revoked_after_the_backup_stays_revoked_and_the_restored_store_can_revoke(
    tmp_path: Path,
) -> None:
    """The data plane refuses the snapshots of the restored store until its operator allows them."""
    backup, target = tmp_path / "a.backup", f"sqlite+aiosqlite:///{tmp_path}/restored.db"
    agent = Agent(tmp_path / "agent")
    async with control_plane(tmp_path) as lost:
        keys = {name: await create(lost, name) for name in ("before", "after", "later", "kept")}
        await revoke(lost, "before")
        await store_backup.backup(f"sqlite+aiosqlite:///{tmp_path}/registry.db", backup)
        async with agent.running(lost.address):
            await eventually(lambda: is_connected(lost, True))
            await eventually(lambda: serves(lost, 5))
            await revoke(lost, "after")
            await eventually(lambda: applies(lost, 2))
    await store_backup.restore(target, backup)
    async with control_plane(tmp_path, url=target) as restored, agent.running(restored.address):
        await eventually(lambda: is_connected(restored, True))
        await eventually(lambda: shows(restored, pb.PHASE_REJECTED))
        assert (await restored.data_plane()).reason == STORE_UID_MISMATCH
        await eventually(lambda: applies(restored, 1))
        await revoke(restored, "later")
        await eventually(lambda: applies(restored, 2))
    async with agent.running("127.0.0.1:1"):
        let_in = {name for name, key in keys.items() if agent.lets_in(key.key)}
    assert let_in == {"kept"}


async def revoke_many(store: Store, count: int) -> Sequence[str]:
    """Revocations of keys that nobody has, without a call for each."""
    uids = [f"{number:032x}" for number in range(1, count + 1)]

    async def change(connection: WriteConnection) -> None:
        for first in range(0, count, 1000):
            rows = [
                {"sequence": number, "key_uid": uids[number - 1], "name": "apiKeys/k", "catalog_revision": 0}
                | {"create_time_us": 0}
                for number in range(first + 1, first + 1001)
            ]
            await connection.execute(insert(table), rows)
        await connection.execute(update(catalog).values(revocations_sequence=count))

    await store._catalog_door.run(change)
    return uids


async def test_a_hundred_thousand_revocations_arrive_with_the_hello(tmp_path: Path) -> None:
    async with Store.open(f"sqlite+aiosqlite:///{tmp_path}/registry.db") as store:
        uids = await revoke_many(store, 100_000)
    agent = Agent(tmp_path / "agent")
    async with control_plane(tmp_path) as plane:
        before_s = time.process_time()
        async with agent.running(plane.address):
            await eventually(lambda: is_connected(plane, True))
            await eventually(lambda: applies(plane, 100_000))
        spent_s = time.process_time() - before_s
        assert list(agent.ingress.revoked) == uids
        with capture_logs() as logs:
            async with agent.running(plane.address):
                await eventually(lambda: applies(plane, 100_000))
        assert not [log for log in logs if log["event"] == "keys_revoked"], "none is sent again"
    assert spent_s < 5.0
    assert (tmp_path / "agent" / "snapshots" / "REVOCATIONS").stat().st_size < 4_000_000


class HostilePlane:
    """A control plane that sends these batches at the beginning of each stream."""

    def __init__(self, *sent: pb.Revocations) -> None:
        self.sent = sent
        self.hellos: list[pb.Hello] = []
        self.statuses: list[pb.Status] = []

    async def sync(self, requests: AsyncIterator[pb.SyncRequest], context: object) -> AsyncIterator[pb.SyncResponse]:
        self.hellos.append((await anext(requests)).hello)
        head = position_to_proto(Position(store_uid="store", revision=0, digest=bytes(32)))
        yield pb.SyncResponse(heartbeat=pb.Heartbeat(head=head))
        for revocations in self.sent:
            yield pb.SyncResponse(revocations=revocations)
        async for request in requests:
            self.statuses.append(request.status)


@asynccontextmanager
async def serving(hostile: HostilePlane) -> AsyncIterator[str]:
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(
        hostile.sync,
        request_deserializer=pb.SyncRequest.FromString,
        response_serializer=pb.SyncResponse.SerializeToString,
    )
    service = "broadsheet.v1.SnapshotService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Sync": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def test_batches_that_make_no_sense_are_not_applied_and_the_stream_goes_on() -> None:
    hostile = HostilePlane(
        pb.Revocations(payload=b"\xff" * 100),
        pb.Revocations(),
        batch("a", last=7),
        batch(*["x"] * 10_001),
        batch("", after=0),
        batch("a", store_uid=""),
        batch("good", after=0),
    )
    data_plane = DataPlane()
    async with serving(hostile) as address, data_plane.running(address):
        await eventually(lambda: _has(hostile, 1))
    assert list(data_plane.revoked.held) == ["good"]
    assert len(hostile.hellos) == 1


async def test_a_gap_is_asked_for_with_a_new_hello(tmp_path: Path) -> None:
    hostile = HostilePlane(batch("a"), batch("c", after=2))
    data_plane = DataPlane()
    async with serving(hostile) as address, data_plane.running(address):
        await eventually(lambda: _greeted(hostile, 3))
        hostile.sent = (batch("b", "c", after=1),)
        await eventually(lambda: _has(hostile, 3))
    assert [second.revocations_sequence for second in hostile.hellos[:2]] == [0, 1]
    assert sorted(data_plane.revoked.held) == ["a", "b", "c"]


async def _has(hostile: HostilePlane, sequence: int) -> bool:
    return any(status.revocations_sequence == sequence for status in hostile.statuses)


async def _greeted(hostile: HostilePlane, times: int) -> bool:
    return len(hostile.hellos) >= times
