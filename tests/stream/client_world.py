"""A real control plane in a thread, and a data plane whose reports a test scripts.

The control plane is in a thread so that a test may block in `Client` and in the command line.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
from structlog.testing import capture_logs

from broadsheet.types import Phase, Position, ResourceState, ResourceStatus
from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import snapshot_service_pb2_grpc
from controlplane.adapters.verification import AdapterVerifier
from controlplane.fleet.fleet import Fleet, fleet_of
from controlplane.push.fan_out import FanOut
from controlplane.push.head_signing import HeadSigner
from controlplane.rpc.handlers.registry import Registry
from controlplane.rpc.server import Server
from controlplane.rpc.servicers import FleetServicer, RegistryServicer, SnapshotServicer
from controlplane.store.store import Store
from protocol.transport.key_files import KeyFiles, read_signer
from tests.access import everybody_is_admin
from tests.sync_handler import sync_handler

START_TIMEOUT_S = 30.0


@contextmanager
def running_control_plane(directory: Path, *, signing_keys: Path | None = None) -> Iterator[str]:
    """A control plane with a new database below `directory`. Yields its endpoint.

    With `signing_keys` it signs.
    """
    started: queue.Queue[str | BaseException] = queue.Queue()
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        ended = asyncio.Event()
        async with Store.open(f"sqlite+aiosqlite:///{directory}/registry.db") as store:
            verifier = AdapterVerifier(size_bytes_max=1024 * 1024, allowed_sources=())
            fleet = fleet_of(store, head=await store.head())
            fan_out = FanOut(fleet, now=lambda: datetime.now(UTC))
            store.commits.subscribe(fan_out.publish)
            server = Server(
                message_bytes_max=4 << 20, streams_max=100, admit=everybody_is_admin, holder_of=store.holder_of
            )
            heads = HeadSigner(KeyFiles(signing_keys, read_signer) if signing_keys is not None else None)
            server.add(*_servicers(store, fleet, fan_out, verifier, heads))
            writing = asyncio.create_task(fleet.writer.run())
            try:
                address = await server.start("127.0.0.1:0")
                stop.append((asyncio.get_running_loop(), ended))
                started.put(address)
                await ended.wait()
                await fan_out.shutdown()
            finally:
                await server.stop(0)
                verifier.close()
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            started.put(error)
            raise

    # Its logs would go to stdout, where tests of the command line expect only output.
    with capture_logs():
        thread = threading.Thread(target=run)
        thread.start()
        outcome = started.get(timeout=START_TIMEOUT_S)
        if isinstance(outcome, BaseException):
            raise outcome
        try:
            yield outcome
        finally:
            loop, ended = stop[0]
            loop.call_soon_threadsafe(ended.set)
            thread.join()


def _servicers(
    store: Store, fleet: Fleet, fan_out: FanOut, verifier: AdapterVerifier, heads: HeadSigner
) -> tuple[RegistryServicer, SnapshotServicer, FleetServicer]:
    registry = Registry(
        store=store, adapter_verifier=verifier, resource_statuses=fleet.statuses, signed_head=heads.signed
    )
    handler = sync_handler(fan_out, store, heads=heads)
    return RegistryServicer(registry), SnapshotServicer(registry, handler), FleetServicer(store, fleet)


def state(
    name: str, value: ResourceState.ValueType, number: int = 1, reason: str = "", message: str = ""
) -> ResourceStatus:
    """A resource's state, as a data plane reports it."""
    return ResourceStatus(name=name, state=value, revision_number=number, reason=reason, message=message)


class ScriptedDataPlane:
    """The data plane end of a Sync stream: takes every snapshot, and reports scripted states."""

    def __init__(
        self, endpoint: str, data_plane: str = "local", *, rejects: str = "", takes_revocations: bool = False
    ) -> None:
        self._rejects = rejects
        self._requests: queue.Queue[pb.SyncRequest | None] = queue.Queue()
        self._serving: Position | None = None
        self._reported: Sequence[ResourceStatus] = ()
        self._channel = grpc.insecure_channel(endpoint)
        features = [pb.FEATURE_REVOCATIONS] if takes_revocations else []
        hello = pb.Hello(data_plane=data_plane, instance_uid="1", http_address="http://127.0.0.1:1", features=features)
        self._requests.put(pb.SyncRequest(hello=hello))
        self._responses = snapshot_service_pb2_grpc.SnapshotServiceStub(self._channel).Sync(
            iter(self._requests.get, None)
        )
        self._connected = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()
        assert self._connected.wait(START_TIMEOUT_S)

    def report(self, *resources: ResourceStatus, removed: Sequence[str] = ()) -> None:
        """Report states. They hold until the next report, and are said again for each snapshot: the
        control plane drops what is said of a name before the name is in the catalog."""
        self._reported = resources
        self._requests.put(
            pb.SyncRequest(status=pb.Status(serving=self._serving, resources=resources, removed=removed))
        )

    def close(self) -> None:
        self._requests.put(None)
        self._responses.cancel()
        self._thread.join()
        self._channel.close()

    def _follow(self) -> None:
        try:
            for response in self._responses:
                self._connected.set()
                if response.HasField("commit"):
                    self._requests.put(pb.SyncRequest(status=self._answer(response.commit.to)))
                elif response.HasField("revocations"):
                    batch = pb.RevocationBatch.FromString(response.revocations.payload)
                    status = pb.Status(serving=self._serving, revocations_sequence=batch.last_sequence)
                    self._requests.put(pb.SyncRequest(status=status))
        except grpc.RpcError:
            pass  # closed, or the control plane ended

    def _answer(self, target: Position) -> pb.Status:
        if self._rejects:
            return pb.Status(
                target=target, serving=self._serving, phase=Phase.PHASE_REJECTED, reason=self._rejects, message="no"
            )
        self._serving = target
        return pb.Status(target=target, serving=target, phase=Phase.PHASE_ACTIVE, resources=self._reported)


@contextmanager
def scripted_data_plane(
    endpoint: str, data_plane: str = "local", *, rejects: str = "", takes_revocations: bool = False
) -> Iterator[ScriptedDataPlane]:
    """A `ScriptedDataPlane` during a block."""
    plane = ScriptedDataPlane(endpoint, data_plane, rejects=rejects, takes_revocations=takes_revocations)
    try:
        yield plane
    finally:
        plane.close()
