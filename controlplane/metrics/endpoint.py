"""Serves the metrics over HTTP, on a port of its own.

`prometheus_client` has a server, with a thread for each connection and no limits. This one is
bounded in time, bytes and connections. h11 parses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import h11
from prometheus_client import CollectorRegistry, generate_latest

from controlplane.errors import SetupError

CONNECTIONS_MAX = 32
"""At a time. Prometheus keeps one; more callers are closed at once."""

REQUEST_TIMEOUT_S = 10.0
"""For a request and its answer. A kept connection that is silent for longer is closed."""

HEAD_BYTES_MAX = 8 * 1024

_CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class MetricsEndpoint:
    """`GET /metrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """
        Args:
            registry: What it shows.
        """
        self._registry = registry
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @contextlib.asynccontextmanager
    async def listening(self, listen: str) -> AsyncIterator[str]:
        """Listen while the block runs.

        Args:
            listen: `HOST:PORT`; port 0 is any free port.

        Returns:
            The address, with the real port.

        Raises:
            SetupError: it cannot listen there.
        """
        host, _, port = listen.rpartition(":")
        try:
            server = await asyncio.start_server(
                self._serve, host.strip("[]"), int(port), limit=HEAD_BYTES_MAX, reuse_port=False
            )
        except OSError as error:
            raise SetupError(f"metrics-listen: cannot listen on {listen}: {error.strerror or error}") from None
        try:
            yield f"{host}:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for writer in self._connections.values():
                writer.transport.abort()
            await asyncio.gather(*self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None, "asyncio runs this in a task"
        self._connections[task] = writer
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        try:
            while connection.our_state is h11.IDLE:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    await self._answer(connection, reader, writer)
                if connection.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
                    connection.start_next_cycle()
        except (OSError, TimeoutError, h11.RemoteProtocolError):
            pass  # the caller is slow, gone, or speaks something else
        finally:
            del self._connections[task]
            writer.close()

    async def _answer(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            request = await _request(connection, reader)
        except h11.RemoteProtocolError as error:
            if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await _send(connection, writer, error.error_status_hint, b"this is no HTTP request\n", close=True)
            raise
        if request is None:
            connection.send(h11.ConnectionClosed())
            return
        path = request.target.partition(b"?")[0]
        if path != b"/metrics":
            await _send(connection, writer, 404, b"the metrics are at /metrics\n")
        elif request.method != b"GET":
            await _send(connection, writer, 405, b"GET is allowed\n")
        else:
            await _send(connection, writer, 200, generate_latest(self._registry))


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The next request, its body read and dropped; None: the caller has closed."""
    request: h11.Request | None = None
    received = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(HEAD_BYTES_MAX)
            received += len(data)
            if received > 2 * HEAD_BYTES_MAX:
                raise h11.RemoteProtocolError("the request is too long", error_status_hint=413)
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed):
            return None


async def _send(
    connection: h11.Connection, writer: asyncio.StreamWriter, status: int, body: bytes, *, close: bool = False
) -> None:
    headers = [(b"content-type", _CONTENT_TYPE), (b"content-length", str(len(body)).encode())]
    if close:
        headers.append((b"connection", b"close"))
    for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
    await writer.drain()
