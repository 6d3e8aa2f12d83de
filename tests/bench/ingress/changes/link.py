"""Calls between processes over a Unix socket: bytes in, bytes out, one connection for each call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

Answer = Callable[[bytes], Awaitable[bytes]]


async def serve(path: Path, answer: Answer) -> None:
    """Answer calls until it is cancelled."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await answer(await reader.read()))
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve_one, path)
    async with server:
        await server.serve_forever()


async def call(path: Path, request: bytes) -> bytes:
    """Call, and return the answer.

    Raises:
        ConnectionError: The other process has failed; its log says why.
    """
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    if not answer:
        raise ConnectionError(f"no answer from {path}")
    return answer


class RemoteActor:
    """The relay's actor in another process, called as Ray's handle of it is."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def call(self) -> RemoteActor:
        """The actor's method."""
        return self

    async def remote(self, request: bytes) -> bytes:
        """Call it."""
        return await call(self._path, request)
