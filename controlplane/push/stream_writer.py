"""Writes the messages of a Sync stream, so that its status is sent after the last of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc.aio

from broadsheet.v1 import snapshot_service_pb2 as pb

Write = Callable[[pb.SyncResponse], Awaitable[None]]
"""Writes a message to the client. `ServicerContext.write` does."""


class StreamWriter:
    """The only one that writes to a stream.

    gRPC refuses to send a status while the first message is being written (TOO_MANY_OPERATIONS),
    and the client would then wait for ever. So a write that has begun goes on when the caller is
    cancelled, and `finish` comes before the status.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._writing: asyncio.Task[None] | None = None

    async def write(self, response: pb.SyncResponse) -> None:
        """Write a message. The one before it must have ended."""
        self._writing = asyncio.create_task(self._write_once(response))
        try:
            await asyncio.shield(self._writing)
        except grpc.aio.InternalError:
            # The client is gone, and grpc.aio is about to cancel this handler. To return would
            # raise again when the status is sent, so wait for the cancellation.
            await asyncio.Event().wait()

    async def finish(self, timeout_s: float) -> None:
        """Wait until the last write has ended.

        Args:
            timeout_s: How long to wait: a client that does not read lets a write last for ever.
        """
        if self._writing is not None:
            await asyncio.wait((self._writing,), timeout=timeout_s)
            self._writing.cancel()

    async def _write_once(self, response: pb.SyncResponse) -> None:
        await self._write(response)
