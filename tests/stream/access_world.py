"""A control plane with real authentication, and a token of each role."""

from __future__ import annotations

import asyncio
import hashlib
import queue
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import grpc.aio
import yaml
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection
from structlog.testing import capture_logs

from controlplane.access.authentication import Authenticator, TokenSource
from controlplane.access.enrolled import EnrolledDataPlanes
from controlplane.access.identities import DataPlaneIdentities
from controlplane.access.permissions import Role
from controlplane.access.tokens_file import TokensFile
from controlplane.adapters.verification import AdapterVerifier
from controlplane.fleet.fleet import fleet_of
from controlplane.principal import Principal
from controlplane.push.credential_watch import CredentialWatch
from controlplane.push.fan_out import FanOut
from controlplane.rpc.handlers.registry import Registry
from controlplane.rpc.server import SERVICES, Server
from controlplane.rpc.servicers import FleetServicer, RegistryServicer, SnapshotServicer
from controlplane.store.store import Store
from tests.sync_handler import sync_handler

TOKENS = {role: secrets.token_urlsafe(32) for role in Role}
"""A valid token of each role."""

DATA_PLANE_1_TOKEN = secrets.token_urlsafe(32)
"""A token for the data plane `dp-1` only."""

EXPIRED_TOKEN = secrets.token_urlsafe(32)


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def write_tokens(file: Path, entries: Sequence[dict[str, str]]) -> Path:
    """Write a tokens file as an operator should."""
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump({"tokens": list(entries)}))
    return file


def entries() -> list[dict[str, str]]:
    """The entries of all tokens in a tokens file."""
    return [
        *({"name": f"the-{role}", "role": role.value, "sha256": sha256(token)} for role, token in TOKENS.items()),
        {"name": "dp-1", "role": "data-plane", "data_plane": "dp-1", "sha256": sha256(DATA_PLANE_1_TOKEN)},
        {"name": "old", "role": "admin", "sha256": sha256(EXPIRED_TOKEN), "expire_time": "2020-01-01T00:00:00Z"},
    ]


def methods() -> list[MethodDescriptor]:
    """Every RPC of every service that the server has."""
    pool = descriptor_pool.Default()
    services = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
    return [method for name in services for method in pool.FindServiceByName(name).methods]


def path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@dataclass(frozen=True)
class Plane:
    """A running control plane."""

    address: str
    channel: grpc.aio.Channel
    tokens_file: Path


@asynccontextmanager
async def guarded_plane(
    directory: Path,
    *more: TokenSource,
    tls: grpc.ServerCredentials | None = None,
    certificates: Mapping[str, Principal] = MappingProxyType({}),
) -> AsyncIterator[Plane]:
    """A control plane with the tokens of this module, and those of `more`."""
    file = write_tokens(directory / "tokens.yaml", entries())
    source = TokensFile(file, now=lambda: datetime.now(UTC))
    async with Store.open(f"sqlite+aiosqlite:///{directory}/registry.db") as store:
        enrolled = EnrolledDataPlanes(store.enrollments, clock=time.monotonic)
        identities = DataPlaneIdentities([source.bound_ids, enrolled.bound_ids], allows_unbound=True)
        verifier = AdapterVerifier(size_bytes_max=1024, allowed_sources=())
        fleet = fleet_of(store, head=await store.head())
        fan_out = FanOut(fleet, now=lambda: datetime.now(UTC))
        store.commits.subscribe(fan_out.publish)
        authenticator = Authenticator([source, *more, enrolled], certificates)
        server = Server(message_bytes_max=1 << 20, streams_max=100, admit=authenticator.admit)
        registry = Registry(store=store, adapter_verifier=verifier, resource_statuses=fleet.statuses)
        server.add(
            RegistryServicer(registry),
            SnapshotServicer(
                registry,
                sync_handler(fan_out, store, identify=identities.identify),
            ),
            FleetServicer(store, fleet, enrolled),
        )
        address = await server.start("127.0.0.1:0", tls)
        watch = CredentialWatch(lambda: fan_out.streams, authenticator.admit, identities.identify, check_s=0.05)
        running = [asyncio.create_task(task) for task in (fleet.writer.run(), watch.run(), enrolled.run())]
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                yield Plane(address, channel, file)
        finally:
            await server.stop(0)
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            verifier.close()


@contextmanager
def serving_guarded(directory: Path) -> Iterator[str]:
    """`guarded_plane` in a thread, for tests that block; its address."""
    started: queue.Queue[str] = queue.Queue()
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        ended = asyncio.Event()
        async with guarded_plane(directory) as plane:
            stop.append((asyncio.get_running_loop(), ended))
            started.put(plane.address)
            await ended.wait()

    with capture_logs():
        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        yield started.get(timeout=30)
        loop, ended = stop[0]
        loop.call_soon_threadsafe(ended.set)
        thread.join()
