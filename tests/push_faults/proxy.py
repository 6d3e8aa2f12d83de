"""A proxy between a data plane and its control plane that loses, holds and drops what passes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_READ_BYTES = 16 * 1024
_RETRANSMIT_S = 0.2
"""Linux sends a lost segment again after this time, then after twice the time, and so on."""


@dataclass
class Fault:
    """What happens to bytes now. All may hold at once."""

    to_server_open: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear: nothing passes from the client to the server."""
    to_client_open: asyncio.Event = field(default_factory=asyncio.Event)
    loss: float = 0.0
    """The share of segments that are lost. TCP sends them again, so each loss is a wait."""

    def __post_init__(self) -> None:
        self.heal()

    def heal(self) -> None:
        """Let everything pass."""
        self.to_server_open.set()
        self.to_client_open.set()
        self.loss = 0.0


@asynccontextmanager
async def proxy(target: str, fault: Fault) -> AsyncIterator[str]:
    """Pass connections on to `target`. Yields the address to connect to."""
    host, _, port = target.rpartition(":")
    chosen = random.Random(0)
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio runs it as a task"
        connections.add(task)
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        try:
            _, waiting = await asyncio.wait(
                (
                    asyncio.create_task(_pass_on(reader, upstream_writer, fault.to_server_open, fault, chosen)),
                    asyncio.create_task(_pass_on(upstream_reader, writer, fault.to_client_open, fault, chosen)),
                ),
                return_when=asyncio.FIRST_COMPLETED,
            )
            for other in waiting:
                other.cancel()
        except asyncio.CancelledError:
            # The block ends. asyncio would log it.
            return
        finally:
            connections.discard(task)
            writer.close()
            upstream_writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield "{}:{}".format(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _pass_on(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    is_open: asyncio.Event,
    fault: Fault,
    chosen: random.Random,
) -> None:
    try:
        while data := await reader.read(_READ_BYTES):
            wait_s = _RETRANSMIT_S
            while chosen.random() < fault.loss:
                await asyncio.sleep(wait_s)
                wait_s *= 2
            await is_open.wait()
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return
