"""A server that breaks HTTP on purpose."""

from __future__ import annotations

import asyncio
import contextlib


class RawServer:
    """A TCP server that speaks only as much HTTP as a test needs."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests = 0
        self.url = ""

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        self.requests += 1
        writer.write(self.answers.pop(0) if self.answers else b"")
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()
