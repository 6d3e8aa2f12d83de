"""The floor of a path in Python: a forwarder that does nothing that a request does not need.

    python -m tests.bench.ingress.served.forwarder PORT ENGINE_PORT

Raw ASGI on uvicorn with uvloop and httptools. It reads `model`, looks it up in one dictionary of
100,000 names, and sends the request to the engine over kept connections. It has no keys, no limits,
no retries, no bounds and no metrics.
"""

from __future__ import annotations

import argparse
import asyncio

import httptools
import msgspec
import uvicorn

from dataplane.openai.asgi import Receive, Scope, Send
from tests.bench.ingress.served import catalogs

_NAMES = 100_000
_HOP_BY_HOP = (b"transfer-encoding", b"connection", b"date", b"server")


class _Body(msgspec.Struct):
    model: str


class _Upstream(asyncio.Protocol):
    """A kept connection to the engine."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a TCP client
        self.transport = transport

    def send(self, path: bytes, body: bytes) -> None:
        """Send a request, and expect its answer."""
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.has_head = self.is_done = False
        head = b"POST %b HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(head % (path, len(body)) + body)

    @property
    def status(self) -> int:
        """Of the answer."""
        return int(self._parser.get_status_code())

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_done = True
        self._wake()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.is_done = True

    async def more(self) -> None:
        """Wait until something has come."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter
        self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Forwarder:
    """The ASGI app."""

    def __init__(self, engine_port: int) -> None:
        self._engine_port = engine_port
        self._names = dict.fromkeys((f"m{number}" for number in range(_NAMES)), catalogs.BASE)
        self._idle: list[_Upstream] = []
        self._body = msgspec.json.Decoder(_Body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        body: bytes = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        if self._body.decode(body).model not in self._names:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        upstream = await self._connection()
        upstream.send(scope["raw_path"], body)
        while not upstream.has_head:
            await upstream.more()
        headers = [header for header in upstream.headers if header[0] not in _HOP_BY_HOP]
        await send({"type": "http.response.start", "status": upstream.status, "headers": headers})
        is_done = False
        while not is_done:
            if not upstream.pieces and not upstream.is_done:
                await upstream.more()
            is_done, pieces, upstream.pieces = upstream.is_done, upstream.pieces, []
            await send({"type": "http.response.body", "body": b"".join(pieces), "more_body": not is_done})
        self._idle.append(upstream)

    async def _connection(self) -> _Upstream:
        while self._idle:
            upstream = self._idle.pop()
            if not upstream.transport.is_closing():
                return upstream
        _, opened = await asyncio.get_running_loop().create_connection(_Upstream, "127.0.0.1", self._engine_port)
        return opened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("engine_port", type=int)
    arguments = parser.parse_args()
    uvicorn.run(
        Forwarder(arguments.engine_port),
        port=arguments.port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="error",
        access_log=False,
    )


if __name__ == "__main__":
    main()
