from __future__ import annotations

import asyncio

import grpc.aio

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.push.stream_writer import StreamWriter
from protocol.snapshot_limits import BATCH_BYTES_MAX
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


async def written(*sizes: int, takes_batches: bool = True) -> list[list[int]]:
    """Messages of these sizes as they are written; of a batch, the sizes in it."""
    taken: list[bytes] = []

    async def take(message: bytes) -> None:
        taken.append(message)

    writer = StreamWriter(take)
    writer.takes_batches = takes_batches
    for size in sizes:
        await writer.write(MESSAGE * size)
    await writer.flush()
    return [
        [len(part) for part in pb.SyncResponse.FromString(message).batch.messages] or [len(message)]
        for message in taken
    ]


MESSAGE = b"\x1a\x00"
"""A Commit of nothing. Any number of them is a message."""


async def test_small_messages_are_written_together() -> None:
    assert await written(1, 2, 3) == [[2, 4, 6]]
    assert await written(1) == [[2]]
    assert await written() == []


async def test_a_batch_is_bounded_and_a_large_message_is_written_alone() -> None:
    large = BATCH_BYTES_MAX // 2
    assert await written(1, large, 1) == [[2], [2 * large], [2]]
    assert await written(1, large + 1, 1) == [[2], [2 * large + 2], [2]]
    assert await written(*[large // 4] * 6) == [[large // 2] * 4, [large // 2] * 2]


async def test_a_client_that_knows_no_batches_gets_each_message() -> None:
    assert await written(1, 2, takes_batches=False) == [[2], [4]]


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
