"""What callers without credentials can hold: little, and nothing of what the others need."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from broadsheet.v1 import (
    enrollment_pb2,
    fleet_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
)
from controlplane.access.permissions import Role
from controlplane.rpc import interceptors, server
from tests.stream.access_world import TOKENS, Plane, bearer, guarded_plane

CHECK = health_pb2.HealthCheckRequest()
SECONDS_AT_MOST = 5


@pytest.fixture
async def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plane]:
    monkeypatch.setattr(server, "RPCS_MAX", 12)
    monkeypatch.setattr(interceptors, "WATCHES_PER_PEER_MAX", 3)
    monkeypatch.setattr(interceptors, "UNKNOWN_PER_PEER_MAX", 4)
    monkeypatch.setattr(interceptors, "ANONYMOUS_PER_PEER_MAX", 4)
    monkeypatch.setattr(interceptors, "UNKNOWN_READING_PER_PEER_MAX", 2)
    monkeypatch.setattr(interceptors, "UNKNOWN_REQUEST_TIMEOUT_S", 0.3)
    monkeypatch.setattr(interceptors, "REQUEST_TIMEOUT_S", 1.0)
    async with guarded_plane(tmp_path) as running:
        yield running


async def code_of(call: Any) -> grpc.StatusCode:
    async with asyncio.timeout(SECONDS_AT_MOST):
        code: grpc.StatusCode = await call.code()
    return code


async def lists_models(plane: Plane) -> grpc.StatusCode:
    stub: Any = registry_service_pb2_grpc.RegistryServiceStub(plane.channel)
    request = registry_service_pb2.ListModelsRequest()
    return await code_of(stub.ListModels(request, metadata=bearer(TOKENS[Role.VIEWER])))


def code_task(call: Any) -> asyncio.Task[grpc.StatusCode]:
    return asyncio.ensure_future(code_of(call))


def half_open(channel: grpc.aio.Channel, path: str) -> Any:
    """A call that never sends its message. To the server, it is a call of any kind."""
    call: Any = channel.stream_unary(path, bytes, bytes)
    return call()


async def test_health_watches_are_bounded_and_take_nothing_from_other_calls(plane: Plane) -> None:
    async with AsyncExitStack() as stack:
        outcomes = []
        for _ in range(20):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(plane.address))
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(CHECK)
            try:
                async with asyncio.timeout(SECONDS_AT_MOST):
                    outcomes.append((await watch.read()).status)
            except grpc.aio.AioRpcError as error:
                outcomes.append(error.code())
        assert outcomes == [health_pb2.HealthCheckResponse.SERVING] * 3 + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 17
        assert await lists_models(plane) is grpc.StatusCode.OK
        probe: Any = health_pb2_grpc.HealthStub(plane.channel)
        assert await code_of(probe.Check(CHECK)) is grpc.StatusCode.OK


async def test_calls_that_send_no_message_are_refused_by_their_credentials_at_once(plane: Plane) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(20):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(plane.address))
            call = half_open(channel, "/broadsheet.v1.RegistryService/RegisterModel")
            assert await code_of(call) is grpc.StatusCode.UNAUTHENTICATED
        assert await lists_models(plane) is grpc.StatusCode.OK


@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_health_calls_that_send_no_message_are_bounded_and_end(plane: Plane, method: str) -> None:
    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(20):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(plane.address))
            calls.append(half_open(channel, f"/grpc.health.v1.Health/{method}"))
        async with asyncio.timeout(SECONDS_AT_MOST):
            await asyncio.wait(list(map(code_task, calls)), return_when=asyncio.FIRST_COMPLETED)
        # All places of the address are taken, and a caller with credentials needs none of them.
        assert await lists_models(plane) is grpc.StatusCode.OK
        codes = [await code_of(call) for call in calls]
        assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT}
        assert codes.count(grpc.StatusCode.INVALID_ARGUMENT) <= 4


async def test_slow_messages_make_others_of_their_address_wait_and_not_for_long(plane: Plane) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(3):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(plane.address))
            half_open(channel, "/grpc.health.v1.Health/Check")
        await asyncio.sleep(0.1)
        began_s = time.monotonic()
        probe: Any = health_pb2_grpc.HealthStub(plane.channel)
        assert await code_of(probe.Check(CHECK)) is grpc.StatusCode.OK
        assert time.monotonic() - began_s > 0.1, "it had to wait for its turn"


async def test_messages_without_credentials_are_small(plane: Plane) -> None:
    health: Any = health_pb2_grpc.HealthStub(plane.channel)
    fleet: Any = fleet_service_pb2_grpc.FleetServiceStub(plane.channel)
    token = enrollment_pb2.RedeemEnrollmentRequest(enrollment_token="x" * 100_000)
    for call in (
        health.Check(health_pb2.HealthCheckRequest(service="x" * 5000)),
        health.Watch(health_pb2.HealthCheckRequest(service="x" * 5000)),
        fleet.RedeemEnrollment(token),
    ):
        assert await code_of(call) is grpc.StatusCode.INVALID_ARGUMENT
        assert "4096 are allowed without credentials" in (await call.details() or "")
    # What is known may be larger.
    registry: Any = registry_service_pb2_grpc.RegistryServiceStub(plane.channel)
    request = registry_service_pb2.ListModelsRequest(filter="x" * 5000)
    details = await registry.ListModels(request, metadata=bearer(TOKENS[Role.VIEWER])).details()
    assert "without credentials" not in details


async def test_a_connection_that_says_nothing_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT_MS", 200)
    async with guarded_plane(tmp_path) as running:
        host, _, port = running.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(SECONDS_AT_MOST):
            while await reader.read(4096):
                """The server greets first."""
        writer.close()
