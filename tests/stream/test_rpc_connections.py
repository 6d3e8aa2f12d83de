"""What clients can make the gRPC server hold before it knows them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controlplane.rpc.server import Server
from tests.access import everybody_is_admin

CONNECTIONS_MAX = 10


class _NoServicers:
    """Servicers whose methods no test calls."""

    def __getattr__(self, name: str) -> None:
        return None


@pytest.fixture
async def address() -> AsyncIterator[str]:
    server = Server(
        message_bytes_max=1024 * 1024, streams_max=100, admit=everybody_is_admin, connections_max=CONNECTIONS_MAX
    )
    servicers: Any = _NoServicers()
    server.add(servicers, servicers, servicers)
    yield await server.start("127.0.0.1:0")
    await server.stop(0)


async def check(address: str, *, service: str = "", compression: grpc.Compression | None = None) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await health.Check(request, compression=compression, timeout=10, wait_for_ready=True)
        return int(answer.status)


async def test_connections_are_bounded_and_their_room_is_used_again(address: str) -> None:
    host, _, port = address.rpartition(":")
    async with contextlib.AsyncExitStack() as stack:
        refused = 0
        for _ in range(2 * CONNECTIONS_MAX):
            reader, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            with contextlib.suppress(TimeoutError, ConnectionError):
                # The server writes its settings at once.
                refused += not await asyncio.wait_for(reader.read(1), 0.2)
        assert refused == CONNECTIONS_MAX
    assert await check(address) == health_pb2.HealthCheckResponse.SERVING


async def test_a_compressed_message_is_refused_before_it_is_unpacked(address: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await check(address, service="a" * 100_000, compression=grpc.Compression.Gzip)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "gzip" in str(refused.value.details())


async def test_a_call_costs_the_same_however_many_methods_there_are(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited_for: list[int] = []
    wait = asyncio.wait

    async def counting(tasks: Any, **options: Any) -> Any:
        waited_for.append(len(tasks))
        return await wait(tasks, **options)

    monkeypatch.setattr(asyncio, "wait", counting)

    for _ in range(3):
        await check(address)

    assert len(waited_for) >= 3, "grpc.aio waits for the next call in this way"
    assert max(waited_for) <= 2, "and not once for each method; reflection has one of its own"
