"""Connections to an ingress, for tests of what is sent on them byte by byte."""

from __future__ import annotations

import asyncio
import contextlib

from tests.stream.ingress_world import World

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
BODY = b'{"model":"m"}'
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % len(BODY)


class Connection:
    """A TCP connection to the ingress."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        """Send, unless the other end has closed."""
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def read_to_end(self, timeout_s: float = 5) -> bytes:
        """What still comes until the other end closes."""
        got = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(timeout_s):
                while piece := await self.reader.read(65536):
                    got += piece
        return got

    async def answer(self) -> tuple[int, bytes]:
        """Read one answer with a length. Returns its status and body."""
        async with asyncio.timeout(5):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            return int(head.split(b" ")[1]), await self.reader.readexactly(length)


class Connections:
    """Opens connections, and closes them after the test."""

    def __init__(self, world: World, stack: contextlib.AsyncExitStack) -> None:
        self._port = int(world.url.rpartition(":")[2])
        self._stack = stack

    async def open(self, source: str = "127.0.0.1") -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(source, 0))
        self._stack.callback(writer.close)
        return Connection(reader, writer)
