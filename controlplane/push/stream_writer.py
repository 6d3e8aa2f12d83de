"""Writes the messages of a Sync stream, so that its status is sent after the last of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

import grpc.aio

Write = Callable[[bytes], Awaitable[None]]
"""Writes a serialised message to the client. `ServicerContext.write` does."""


class StreamWriter:
    """The only one that writes to a stream.

    gRPC refuses to send a status while the first message is being written (TOO_MANY_OPERATIONS),
    and the client would then wait for ever. So the task that writes is never cancelled in a write:
    it is asked to stop, and `finish` comes before the status.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._writing: asyncio.Task[None] | None = None
        self.stopped = False
        """No more messages are to be written."""
        self.client_is_gone = False
        """A write has failed. grpc.aio is about to cancel the handler of the stream: to return
        would raise again when the status is sent, so it is to wait for that."""

    def begin(self, writing: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Begin to write. `writing` ends soon after `stopped` is set."""
        self._writing = asyncio.create_task(writing)
        return self._writing

    async def write(self, content: bytes) -> None:
        """Write a message. Nothing happens once the writer is stopped."""
        if self.stopped:
            return
        try:
            await self._write(content)
        except grpc.aio.InternalError:
            self.stopped = self.client_is_gone = True

    async def finish(self, timeout_s: float) -> None:
        """Wait until the last write has ended.

        Args:
            timeout_s: How long to wait: a client that does not read lets a write last for ever.
        """
        self.stopped = True
        if self._writing is not None:
            await asyncio.wait((self._writing,), timeout=timeout_s)
            self._writing.cancel()
