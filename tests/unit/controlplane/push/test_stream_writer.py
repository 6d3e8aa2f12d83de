from __future__ import annotations

import asyncio

import grpc.aio

from controlplane.push.stream_writer import StreamWriter
from tests.unit.controlplane.fleet_world import settle


class Client:
    """Takes a message when the test lets it."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.taken: list[bytes] = []

    async def take(self, message: bytes) -> None:
        await self.reads.wait()
        self.taken.append(message)


async def two_messages(writer: StreamWriter) -> None:
    await writer.write(b"1")
    await writer.write(b"2")


async def test_a_write_that_has_begun_ends_before_the_stream_is_finished_and_no_other_follows() -> None:
    client = Client()
    writer = StreamWriter(client.take)
    writer.begin(two_messages(writer))
    await settle()
    finishing = asyncio.create_task(writer.finish(60))
    await settle()
    assert not finishing.done()
    client.reads.set()
    await finishing
    assert client.taken == [b"1"]


async def test_a_client_that_never_reads_holds_its_stream_for_a_bounded_time() -> None:
    client = Client()
    writer = StreamWriter(client.take)
    writer.begin(two_messages(writer))
    await settle()
    await writer.finish(0.01)
    client.reads.set()
    await settle()
    assert client.taken == []


async def test_a_stream_that_wrote_nothing_is_finished_at_once() -> None:
    await StreamWriter(Client().take).finish(60)


async def test_a_client_that_is_gone_is_no_error_of_its_stream() -> None:
    async def fail(message: bytes) -> None:
        raise grpc.aio.InternalError("the call is over")

    writer = StreamWriter(fail)
    await writer.begin(two_messages(writer))
    assert writer.client_is_gone
