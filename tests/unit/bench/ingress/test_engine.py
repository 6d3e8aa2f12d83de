from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.bench.ingress import answers
from tests.bench.ingress.served.engine import EngineConnection


def request(answer: str, *, body_bytes: int = 0, extra: bytes = b"") -> bytes:
    body = answers.request_body(answer, model="m0", body_bytes=body_bytes)
    body = body[:-1] + extra + body[-1:]
    return b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Client:
    """A connection to the engine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, *pieces: bytes) -> bytes:
        """Send a request in pieces, and return the body of its answer, still in chunks."""
        for piece in pieces:
            self.writer.write(piece)
            await asyncio.sleep(0.001)
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        if b"transfer-encoding: chunked" in head:
            return await self.reader.readuntil(b"\r\n0\r\n\r\n")
        return await self.reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: EngineConnection(loop), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=1024 * 1024)
    yield Client(reader, writer)
    writer.close()
    server.close()
    await server.wait_closed()


async def test_each_answer_has_its_tokens_also_right_after_another(client: Client) -> None:
    # A load generator sends the next request as soon as the last byte is there.
    for answer in (answers.UNARY, "stream-50", "stream-50", "stream-500", answers.UNARY):
        assert answers.tokens_in(await client.ask(request(answer))) == answers.tokens_of(answer)


async def test_large_chunks_are_as_large_as_they_say(client: Client) -> None:
    body = await client.ask(request("stream-8k"))
    assert answers.tokens_in(body) == 50
    assert 50 * 8 * 1024 < len(body) < 50 * 9 * 1024


async def test_usage_is_in_every_event_if_it_was_asked_for(client: Client) -> None:
    assert (await client.ask(request("stream-50"))).count(b'"usage"') == 0
    asked = b',"stream_options":{"include_usage":true,"continuous_usage_stats":true}'
    assert (await client.ask(request("stream-50", extra=asked))).count(b'"usage"') == 52


async def test_a_body_in_pieces_is_read_to_its_end(client: Client) -> None:
    whole = request(answers.UNARY, body_bytes=100_000)
    in_name = whole.index(b"bench:") + 8
    await client.ask(whole[:10], whole[10:in_name], whole[in_name:50_000], whole[50_000:])
    assert answers.tokens_in(await client.ask(request("stream-50"))) == 50


async def test_pipelined_requests_are_refused(client: Client) -> None:
    client.writer.write(request("stream-50") + request("stream-50"))
    assert await client.reader.read() == b""


async def test_an_unknown_answer_names_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="got 'stream-7', expected unary, stream-50"):
        answers.stream_of("stream-7")


def test_a_request_has_as_many_bytes_as_it_is_told_to() -> None:
    assert len(answers.request_body("stream-50", model="m0", body_bytes=4096)) == 4096
    assert len(answers.request_body("stream-50", model="m0", body_bytes=1)) < 200


def test_an_answer_is_wrong_by_its_status_or_if_it_lacks_tokens() -> None:
    assert answers.fault("stream-50", 200, b" token" * 50) is None
    assert answers.fault("stream-50", 200, b" token" * 49) == "49 tokens in the answer, not 50"
    assert answers.fault(answers.UNARY, 503, b"busy") == "status 503: busy"
