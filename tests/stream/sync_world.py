"""A control plane on a real gRPC server and a real SQLite store, and data planes with the real Sync
client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf import duration_pb2, json_format

from broadsheet.v1 import fleet_service_pb2, model_pb2, registry_service_pb2, status_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1.fleet_service_pb2_grpc import FleetServiceStub
from broadsheet.v1.registry_service_pb2_grpc import RegistryServiceStub
from broadsheet.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from controlplane.adapters.verification import AdapterVerifier
from controlplane.fleet.fleet import Fleet, fleet_of
from controlplane.fleet.shared_database import SharingSettings, sharing_of
from controlplane.fleet.state import FleetLimits
from controlplane.metrics.metrics import Metrics
from controlplane.push.fan_out import FanOut, ShutdownSettings
from controlplane.push.head_signing import HeadSigner
from controlplane.push.subscription.timing import Limits
from controlplane.push.sync import SyncHandler
from controlplane.rpc.handlers.registry import Registry
from controlplane.rpc.server import Server
from controlplane.rpc.servicers import FleetServicer, RegistryServicer, SnapshotServicer
from controlplane.store.store import Store
from dataplane.snapshot.accept import accept
from dataplane.snapshot.change import Change, changed
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.rejection import ROOT_DIGEST_MISMATCH, Rejection
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from dataplane.sync.client import Connection, SyncClient, Timing
from dataplane.sync.events import Accepted, Diverged, Identity, Rejected
from dataplane.sync.revocations.stream import RevocationStream
from protocol.transport.key_files import KeyFiles, read_signer
from tests import full_catalog
from tests.access import everybody_is_admin
from tests.raw import POLICY
from tests.registry_world import spec
from tests.revoking import RevocationsInMemory
from tests.sync_handler import sync_handler

LIMITS = Limits(heartbeat_s=0.1, hello_timeout_s=0.5, answer_timeout_s=5.0, silence_timeout_s=5.0)
FLEET_LIMITS = FleetLimits(last_seen_write_s=0.2)
SHUTDOWN_SETTINGS = ShutdownSettings(reconnect_after_s=0.05)
WRITE_RETRY_S = 0.05
TIMING = Timing(heartbeat_s=0.1, missed_heartbeats_max=10, backoff_base_s=0.02, backoff_cap_s=0.1)
PATIENCE_S = 10.0


class ControlPlane:
    """A running control plane, and stubs of its services."""

    def __init__(
        self,
        store: Store,
        fan_out: FanOut,
        server: Server,
        address: str,
        channel: grpc.aio.Channel,
        metrics: Metrics,
    ) -> None:
        self.store = store
        self.fan_out = fan_out
        self.server = server
        self.address = address
        self.metrics = metrics
        self.registry = RegistryServiceStub(channel)
        self.fleet = FleetServiceStub(channel)
        self.snapshots = SnapshotServiceStub(channel)

    async def register(self, model_id: str, *, text: str = "", **spec: Any) -> int:
        """Register a model that needs no files; returns the catalog revision."""
        full_spec = {"engine": {"kind": "KIND_SIMULATED"}, **spec}
        request = registry_service_pb2.RegisterModelRequest(
            model_id=model_id,
            spec=json_format.ParseDict(full_spec, model_pb2.ModelSpec()),
            card=model_pb2.ModelCard(description=text),
        )
        response = await self.registry.RegisterModel(request)
        return int(response.catalog_revision)

    async def fill(self, count: int, *, text: str) -> int:
        """Publish a catalog of `count` models that need no files; returns its revision."""
        drafts = [full_catalog.model_draft(f"m{number}", spec(), description=text) for number in range(count)]
        revision = await full_catalog.fill(self.store, drafts)
        self.fan_out.publish(await self.store.head())
        return revision

    async def data_plane(self, data_plane_id: str = "dp") -> fleet_service_pb2.DataPlane:
        request = fleet_service_pb2.GetDataPlaneRequest(name=f"dataPlanes/{data_plane_id}")
        response: fleet_service_pb2.GetDataPlaneResponse = await self.fleet.GetDataPlane(request)
        return response.data_plane

    async def wait_for(
        self, revision: int, *data_plane_ids: str, timeout_s: float = PATIENCE_S
    ) -> fleet_service_pb2.WaitForRevisionResponse:
        request = fleet_service_pb2.WaitForRevisionRequest(
            revision=revision,
            data_planes=[f"dataPlanes/{data_plane_id}" for data_plane_id in data_plane_ids],
            timeout=duration_pb2.Duration(nanos=round(timeout_s * 1e9) % 10**9, seconds=int(timeout_s)),
        )
        response: fleet_service_pb2.WaitForRevisionResponse = await self.fleet.WaitForRevision(request)
        return response


@asynccontextmanager
async def control_plane(
    directory: Path,
    *,
    listen: str = "127.0.0.1:0",
    limits: Limits = LIMITS,
    wrap_store: Callable[[Store], Any] = lambda store: store,
    orderly: bool = True,
    watch_s: float = 0.2,
    url: str | None = None,
    sharing: SharingSettings | None = None,
    signing_keys: Path | None = None,
) -> AsyncIterator[ControlPlane]:
    """A running control plane on the store in `directory`.

    `orderly`: it says Goodbye at the end; otherwise it ends like a crash. `url` names another
    database, and `sharing` says how often control planes on it look at each other. With
    `signing_keys` it signs.
    """
    async with Store.open(url or f"sqlite+aiosqlite:///{directory}/registry.db") as store:
        verifier = AdapterVerifier(size_bytes_max=1024 * 1024, allowed_sources=())
        wrapped = wrap_store(store)
        fleet = fleet_of(
            wrapped,
            head=await store.head(),
            sharing=sharing_of(store, sharing),
            limits=FLEET_LIMITS,
            write_retry_s=WRITE_RETRY_S,
        )
        fan_out = FanOut(fleet, now=lambda: datetime.now(UTC), settings=SHUTDOWN_SETTINGS)
        heads = HeadSigner(KeyFiles(signing_keys, read_signer) if signing_keys is not None else None)
        metrics = Metrics(clock=time.monotonic)
        store.commits.subscribe(lambda head: metrics.announced(head.position.revision))
        store.commits.subscribe(lambda head: metrics.revoked(head.revocations_sequence))
        metrics.count_behind_with_revocations(lambda: fan_out.behind_with_revocations)
        store.commits.subscribe(fan_out.publish)
        server = Server(message_bytes_max=4 * 1024 * 1024, streams_max=1000, admit=everybody_is_admin)
        handler = sync_handler(
            fan_out, store, entries=wrapped, heads=heads, limits=limits, metrics=metrics, watch_s=watch_s
        )
        server.add(*_servicers(store, fleet, verifier, heads, handler))
        address = await server.start(listen)
        running = [
            asyncio.create_task(fleet.writer.run()),
            asyncio.create_task(heads.follow(fan_out.announce_again, interval_s=0.02)),
            asyncio.create_task(fleet.database.run(lambda: fan_out.oldest_in_use)),
        ]
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                yield ControlPlane(store, fan_out, server, address, channel, metrics)
        finally:
            if orderly:
                await fan_out.shutdown()
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            if orderly:
                await fleet.database.leave()
            await server.stop(0)
            verifier.close()


def _servicers(
    store: Store, fleet: Fleet, verifier: AdapterVerifier, heads: HeadSigner, handler: SyncHandler
) -> tuple[RegistryServicer, SnapshotServicer, FleetServicer]:
    registry = Registry(
        store=store, adapter_verifier=verifier, resource_statuses=fleet.statuses, signed_head=heads.signed
    )
    return RegistryServicer(registry), SnapshotServicer(registry, handler), FleetServicer(store, fleet)


class DataPlane:
    """What an agent does with snapshots, without a cluster."""

    def __init__(self, policy: Policy = POLICY, *, decide: Callable[[Position], Awaitable[None]] | None = None) -> None:
        self.policy = policy
        self.snapshot: Snapshot | None = None
        self.doomed: set[int] = set()
        """Revisions that it rejects."""
        self.offered: list[int] = []
        self.activated: list[int] = []
        self.changes: list[tuple[int, int]] = []
        """Revisions between which changes have come."""
        self.rejected: list[Rejected] = []
        self.connections: list[Connection] = []
        self.client: SyncClient | None = None
        self.revoked = RevocationsInMemory()
        self._decide = decide
        self._changed = asyncio.Event()

    async def on_snapshot(
        self, position: Position, entries: Sequence[RawEntry], signed_head: bytes = b""
    ) -> Accepted | Rejection:
        self.offered.append(position.revision)
        if self._decide is not None:
            await self._decide(position)
        if position.revision in self.doomed:
            return Rejection(reason="DOOMED", message="the test rejects it")
        outcome = await asyncio.to_thread(
            accept, position, entries, held=self.snapshot, policy=self.policy, signed_head=signed_head
        )
        if isinstance(outcome, Rejection):
            return outcome
        self.snapshot = outcome
        self.activated.append(position.revision)
        self._notify()
        return Accepted(with_errors=bool(outcome.quarantined))

    async def on_change(
        self, position: Position, change: Change, signed_head: bytes = b""
    ) -> Accepted | Rejection | Diverged:
        assert self.snapshot is not None
        assert self.snapshot.position == change.base
        self.changes.append((change.base.revision, position.revision))
        outcome = await self.on_snapshot(position, changed(self.snapshot.entries, change), signed_head)
        is_wrong = isinstance(outcome, Rejection) and outcome.reason == ROOT_DIGEST_MISMATCH
        return Diverged() if is_wrong else outcome

    async def on_rejected(self, rejected: Rejected) -> None:
        self.rejected.append(rejected)
        self._notify()

    def on_connection(self, connection: Connection) -> None:
        self.connections.append(connection)
        self._notify()

    @property
    def revocations(self) -> RevocationStream:
        return self.revoked.stream

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await self._changed.wait()

    async def active(self, revision: int) -> Snapshot:
        """Wait until a revision, or a later one, is in service."""
        await self.until(lambda: self.snapshot is not None and self.snapshot.position.revision >= revision)
        assert self.snapshot is not None
        return self.snapshot

    def report(self, statuses: Mapping[str, status_pb2.ResourceState.ValueType]) -> None:
        assert self.client is not None
        self.client.report(
            {name: status_pb2.ResourceStatus(name=name, state=state) for name, state in statuses.items()}
        )

    @asynccontextmanager
    async def running(
        self,
        address: str,
        data_plane_id: str = "dp",
        *,
        instance_uid: str = "instance-1",
        timing: Timing = TIMING,
    ) -> AsyncIterator[SyncClient]:
        """Keep it connected for a while."""
        self.client = SyncClient(
            address,
            identity=Identity(data_plane=data_plane_id, instance_uid=instance_uid, software_version="9.9"),
            policy=self.policy,
            handlers=self,
            serving=self.snapshot.position if self.snapshot else None,
            rejected=self.rejected,
            timing=timing,
        )
        task = asyncio.create_task(self.client.run())
        try:
            yield self.client
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()):
                raise error


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Poll until a condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.01)


def hello(data_plane_id: str = "dp", **fields: Any) -> pb.SyncRequest:
    """The first message of a stream that a test writes itself."""
    return pb.SyncRequest(hello=pb.Hello(data_plane=data_plane_id, instance_uid="by-hand", **fields))
