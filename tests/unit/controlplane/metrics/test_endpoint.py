"""The HTTP endpoint of the metrics, and what hostile callers may do to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from controlplane.errors import SetupError
from controlplane.metrics import endpoint as metrics_endpoint
from controlplane.metrics.endpoint import CONNECTIONS_MAX, HEAD_BYTES_MAX, MetricsEndpoint


@pytest.fixture
async def address() -> AsyncIterator[str]:
    registry = CollectorRegistry()
    Counter("things", "Some things.", registry=registry).inc(3)
    async with MetricsEndpoint(registry).listening("127.0.0.1:0") as listening:
        yield listening


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def raw(address: str, sent: bytes) -> bytes:
    """What the endpoint answers to `sent` until it closes."""
    reader, writer = await connect(address)
    writer.write(sent)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


async def test_metrics_are_shown_again_and_again_on_one_connection(address: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://{address}") as client:
        for _ in range(3):
            answer = await client.get("/metrics?name[]=x")
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert "things_total 3.0" in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [("GET", "/", 404, "/metrics"), ("POST", "/metrics", 405, "GET"), ("PUT", "/x", 404, "/metrics")],
)
async def test_other_requests_are_refused_and_say_what_is_allowed(
    address: str, method: str, path: str, status: int, words: str
) -> None:
    async with httpx.AsyncClient(base_url=f"http://{address}") as client:
        answer = await client.request(method, path, content=b"x" * 100)
        assert (answer.status_code, words in answer.text) == (status, True)
        assert (await client.get("/metrics")).status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"404"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nhost: a\r\nx: " + b"y" * (3 * HEAD_BYTES_MAX), b"431"),
        (b"POST /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n" + b"x" * 100_000, b"413"),
    ],
    ids=["tls", "http2", "no host", "long head", "long body"],
)
async def test_what_is_no_small_http_request_is_answered_with_an_error_and_closed(
    address: str, sent: bytes, status: bytes
) -> None:
    assert (await raw(address, sent)).startswith(b"HTTP/1.1 " + status)


async def test_silent_connections_are_closed_and_cannot_keep_others_out(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_endpoint, "REQUEST_TIMEOUT_S", 0.3)
    async with AsyncExitStack() as stack:
        silent = [await connect(address) for _ in range(CONNECTIONS_MAX)]
        for _, writer in silent:
            stack.callback(writer.close)
        await asyncio.sleep(0.05)
        refused, writer = await connect(address)
        stack.callback(writer.close)
        async with asyncio.timeout(5):
            assert await refused.read() == b"", "closed at once, without an answer"
            for reader, _ in silent:
                assert await reader.read() == b""
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://{address}/metrics")).status_code == 200


async def test_taken_port_is_named() -> None:
    async with MetricsEndpoint(CollectorRegistry()).listening("127.0.0.1:0") as taken:
        with pytest.raises(SetupError, match=f"metrics-listen: cannot listen on {taken}"):
            async with MetricsEndpoint(CollectorRegistry()).listening(taken):
                pass
