from __future__ import annotations

import asyncio

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.push.stream_writer import StreamWriter
from tests.unit.controlplane.fleet_world import settle

MESSAGE = pb.SyncResponse(heartbeat=pb.Heartbeat())


class Client:
    """Takes a message when the test lets it."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.taken: list[pb.SyncResponse] = []

    async def take(self, message: pb.SyncResponse) -> None:
        await self.reads.wait()
        self.taken.append(message)


async def _interrupted(writer: StreamWriter) -> None:
    """Cancel a write that has begun."""
    writing = asyncio.create_task(writer.write(MESSAGE))
    await settle()
    writing.cancel()
    await asyncio.wait([writing])
    assert writing.cancelled()


async def test_a_write_that_was_interrupted_ends_before_the_stream_is_finished() -> None:
    client = Client()
    writer = StreamWriter(client.take)
    await _interrupted(writer)
    finishing = asyncio.create_task(writer.finish(60))
    await settle()
    assert not finishing.done()
    client.reads.set()
    await finishing
    assert client.taken == [MESSAGE]


async def test_a_client_that_never_reads_holds_its_stream_for_a_bounded_time() -> None:
    client = Client()
    writer = StreamWriter(client.take)
    await _interrupted(writer)
    await writer.finish(0.01)
    client.reads.set()
    await settle()
    assert client.taken == []


async def test_a_stream_that_wrote_nothing_is_finished_at_once() -> None:
    await StreamWriter(Client().take).finish(60)
