from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from tests.bench.unary_load import Calls, Load

Handler = Callable[[bytes, Any], Awaitable[bytes]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """A server without serialisation, and its address."""
    server = grpc.aio.server()
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Call": grpc.unary_unary_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def calls(address: str, size_bytes: int = 0) -> Calls:
    return Calls(
        address=address,
        method="/test.Service/Call",
        metadata=(("authorization", "Bearer x"),),
        request=lambda number: number.to_bytes(4, "big") + bytes(size_bytes),
    )


@pytest.mark.parametrize("size_bytes", [0, 20_000])
async def test_each_call_comes_once_and_is_counted_once(size_bytes: int) -> None:
    came: list[int] = []
    at_once, at_once_max = 0, 0

    async def handler(request: bytes, context: Any) -> bytes:
        nonlocal at_once, at_once_max
        assert ("authorization", "Bearer x") in context.invocation_metadata()
        at_once += 1
        at_once_max = max(at_once_max, at_once)
        await asyncio.sleep(0.002)
        at_once -= 1
        came.append(int.from_bytes(request[:4], "big"))
        assert len(request) == 4 + size_bytes
        return bytes(size_bytes)

    async with serving(handler) as address:
        measured = await asyncio.to_thread(Load(calls(address, size_bytes)).run, 8, 0.3)

    assert measured.calls == len(came) > 8
    assert sorted(came) == list(range(len(came)))
    assert 2 <= at_once_max <= 8


async def test_a_refused_call_fails_the_measurement() -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        if int.from_bytes(request, "big") == 5:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        return b"answer"

    async with serving(handler) as address:
        with pytest.raises(RuntimeError, match="refused a call"):
            await asyncio.to_thread(Load(calls(address)).run, 2, 5.0)


async def test_a_server_that_goes_away_fails_the_measurement() -> None:
    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server:
        with pytest.raises(ConnectionError):
            await asyncio.to_thread(Load(calls(f"{host}:{port}")).run, 2, 5.0)
