"""A control plane in this process, served over gRPC, for tests of its RPCs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships no stubs
from grpc_status import rpc_status

from broadsheet.v1 import (
    model_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
    snapshot_service_pb2_grpc,
)
from controlplane.fleet.fleet import fleet_of
from controlplane.push.fan_out import FanOut
from controlplane.rpc.handlers.registry import Registry
from controlplane.rpc.server import Server
from controlplane.rpc.servicers import FleetServicer, RegistryServicer, SnapshotServicer
from tests.access import everybody_is_admin
from tests.registry_world import START, World, open_world, spec
from tests.sync_handler import sync_handler


@dataclass(frozen=True)
class ControlPlane:
    """A control plane in this process, and a client of it."""

    world: World
    address: str
    channel: grpc.aio.Channel
    registry: registry_service_pb2_grpc.RegistryServiceAsyncStub
    snapshots: snapshot_service_pb2_grpc.SnapshotServiceAsyncStub


@asynccontextmanager
async def registry_plane(directory: Path) -> AsyncIterator[ControlPlane]:
    """A control plane with an empty registry on SQLite. Its files are in `directory`."""
    async with open_world(f"sqlite+aiosqlite:///{directory}/registry.db", directory) as world:
        fleet = fleet_of(world.store, head=await world.store.head())
        fan_out = FanOut(fleet, now=lambda: START)
        world.store.commits.subscribe(fan_out.publish)
        server = Server(
            message_bytes_max=4 * 1024 * 1024,
            streams_max=100,
            admit=everybody_is_admin,
            holder_of=world.store.holder_of,
        )
        registry = Registry(store=world.store, adapter_verifier=world.verifier, resource_statuses=fleet.statuses)
        sync = sync_handler(fan_out, world.store)
        server.add(RegistryServicer(registry), SnapshotServicer(registry, sync), FleetServicer(world.store, fleet))
        address = await server.start("127.0.0.1:0")
        async with grpc.aio.insecure_channel(address) as channel:
            yield ControlPlane(
                world=world,
                address=address,
                channel=channel,
                registry=registry_service_pb2_grpc.RegistryServiceStub(channel),
                snapshots=snapshot_service_pb2_grpc.SnapshotServiceStub(channel),
            )
        await server.stop(0)


@dataclass(frozen=True)
class Refusal:
    """The parts of an error that a caller gets."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: dict[str, str]
    fields: dict[str, str]


async def refusal(call: Awaitable[Any]) -> Refusal:
    """The error that `call` ends with, and its details."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    # It reads code, details and trailers, which an AioRpcError has too. The types do not say so.
    status = rpc_status.from_call(cast(grpc.Call, error))
    assert status is not None, "every error carries details"
    reason, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        assert detail.Unpack(reason) or detail.Unpack(request)
    return Refusal(
        code=error.code(),
        message=error.details() or "",
        reason=reason.reason,
        domain=reason.domain,
        metadata=dict(reason.metadata),
        fields={violation.field: violation.description for violation in request.field_violations},
    )


def model_request(model_id: str = "m", **fields: Any) -> registry_service_pb2.RegisterModelRequest:
    return registry_service_pb2.RegisterModelRequest(**{"model_id": model_id, "spec": spec(), **fields})


def adapter_request(directory: Path, **fields: Any) -> registry_service_pb2.RegisterAdapterRequest:
    source = model_pb2.Source(uri=f"file://{directory}")
    return registry_service_pb2.RegisterAdapterRequest(
        **{"parent": "models/m", "adapter_id": "a", "source": source, **fields}
    )
