"""What an app receives and sends, on a connection in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from dataplane.openai.exchange.cycle import Cycle

START = {"type": "http.response.start", "status": 200, "headers": []}


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Connection:
    """The connection of one cycle."""

    def __init__(self) -> None:
        self.wire = Transport()
        self.transport: asyncio.Transport = self.wire
        self.flow = FlowControl(self.wire)
        self.loop = asyncio.get_running_loop()
        self.logger = logging.getLogger("test")
        self.tasks: set[asyncio.Task[None]] = set()
        self.completed = 0

    def on_response_complete(self) -> None:
        self.completed += 1

    def cycle(self, method: str = "POST", http_version: str = "1.1", *, expect: bool = False) -> Cycle:
        return Cycle(self, method, http_version, [], keep_alive=http_version == "1.1", expect_100_continue=expect)

    def body(self) -> bytes:
        """What was written after the head."""
        return self.wire.written.partition(b"\r\n\r\n")[2]


def piece(body: bytes, *, more: bool = True) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, object]:
    return {"type": "http.response.start", "status": status, "headers": headers}


async def run(connection: Connection, app: Callable[[Cycle], Awaitable[None]]) -> None:
    """Run an app to its end, as the protocol does."""

    cycle = connection.cycle()

    async def called() -> None:
        await app(cycle)

    task = asyncio.create_task(called())
    connection.tasks.add(task)
    task.add_done_callback(cycle.end)
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert not connection.tasks


# --- pieces that are written at once --------------------------------------------------------------


@pytest.mark.parametrize(
    ("http_version", "headers", "framed"),
    [
        ("1.1", (), b"3\r\none\r\n" + b"4e20\r\n" + b"a" * 20000 + b"\r\n" + b"0\r\n\r\n"),
        ("1.1", ((b"content-length", b"20003"),), b"one" + b"a" * 20000),
        ("1.0", (), b"one" + b"a" * 20000),
    ],
    ids=["chunks", "length", "HTTP/1.0"],
)
async def test_a_written_piece_has_the_framing_of_the_response(
    http_version: str, headers: tuple[tuple[bytes, bytes], ...], framed: bytes
) -> None:
    connection = Connection()
    cycle = connection.cycle(http_version=http_version)
    await cycle.send(start(*headers))
    assert cycle.write(b"one")
    assert cycle.write(b"")  # is no end of chunks
    assert cycle.write(b"a" * 20000)
    await cycle.send(piece(b"", more=False))
    assert connection.body() == framed
    assert connection.completed == 1
    assert connection.wire.closed == (http_version == "1.0")
    assert b"connection: close" in connection.wire.written or http_version == "1.1"


async def test_a_piece_of_an_answer_to_head_is_not_written() -> None:
    connection = Connection()
    cycle = connection.cycle("HEAD")
    await cycle.send(start((b"content-length", b"3")))
    assert cycle.write(b"one")
    await cycle.send(piece(b"", more=False))
    assert connection.body() == b""


async def test_a_slow_reader_is_waited_for() -> None:
    connection = Connection()
    cycle = connection.cycle()
    await cycle.send(START)
    connection.flow.pause_writing()
    assert not cycle.write(b"one")
    assert connection.body() == b"3\r\none\r\n"  # it has been written all the same
    waiting = asyncio.create_task(cycle.send(piece(b"")))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    connection.flow.resume_writing()
    await waiting
    assert cycle.write(b"two")


async def test_a_piece_is_written_between_start_and_end_only() -> None:
    cycle = Connection().cycle()
    with pytest.raises(RuntimeError, match="start"):
        cycle.write(b"one")
    await cycle.send(START)
    await cycle.send(piece(b"", more=False))
    with pytest.raises(RuntimeError, match="end"):
        cycle.write(b"one")
    with pytest.raises(RuntimeError, match="after response already completed"):
        await cycle.send(piece(b""))


async def test_more_or_less_than_the_declared_length_is_refused() -> None:
    cycle = Connection().cycle()
    await cycle.send(start((b"content-length", b"2")))
    with pytest.raises(RuntimeError, match="longer"):
        cycle.write(b"one")
    cycle.write(b"o")
    with pytest.raises(RuntimeError, match="shorter"):
        await cycle.send(piece(b"", more=False))


async def test_nothing_is_written_to_a_client_that_has_left() -> None:
    connection = Connection()
    cycle = connection.cycle()
    await cycle.send(START)
    cycle.lose_client()
    assert cycle.write(b"one")
    await cycle.send(piece(b"two"))
    assert connection.body() == b""


# --- heads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", [(b"x-name\r\nx-other", b"v"), (b"x name", b"v"), (b"x-name", b"v\r\nx-other: w"), (b"x-name", b"v\0")]
)
async def test_a_header_cannot_end_its_line(header: tuple[bytes, bytes]) -> None:
    connection = Connection()
    cycle = connection.cycle()
    with pytest.raises(RuntimeError, match="Invalid HTTP header"):
        await cycle.send(start((b"x-first", b"fine"), header, (b"x-last", b"fine")))
    assert connection.wire.written == b""


@pytest.mark.parametrize(("status", "method"), [(204, "POST"), (304, "GET"), (200, "HEAD")])
async def test_a_response_without_a_body_has_no_framing(status: int, method: str) -> None:
    connection = Connection()
    cycle = connection.cycle(method)
    await cycle.send(start(status=status))
    await cycle.send(piece(b"", more=False))
    assert connection.wire.written.startswith(b"HTTP/1.1 %d " % status)
    assert b"transfer-encoding" not in connection.wire.written


async def test_the_head_is_written_with_the_first_piece() -> None:
    connection = Connection()
    cycle = connection.cycle()
    await cycle.send(start((b"X-Name", b"Value"), (b"content-length", b"3")))
    assert connection.wire.written == b""
    assert cycle.write(b"")
    head = b"HTTP/1.1 200 OK\r\nx-name: Value\r\ncontent-length: 3\r\n\r\n"
    assert connection.wire.written == head
    assert cycle.write(b"one")
    assert connection.wire.written == head + b"one"


@pytest.mark.parametrize("method", ["POST", "HEAD"])
async def test_a_head_without_headers_ends_once(method: str) -> None:
    connection = Connection()
    cycle = connection.cycle(method)
    await cycle.send(start(status=204))
    await cycle.send(piece(b"", more=False))
    assert connection.wire.written == b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([(b"content-length", b"9"), (b"transfer-encoding", b"Chunked")], b"3\r\none\r\n0\r\n\r\n"),
        ([(b"transfer-encoding", b"chunked"), (b"content-length", b"9")], b"3\r\none\r\n0\r\n\r\n"),
        ([(b"transfer-encoding", b"gzip"), (b"content-length", b"3")], b"one"),
    ],
)
async def test_a_response_that_frames_itself_is_left_alone(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    connection = Connection()
    cycle = connection.cycle()
    await cycle.send(start(*headers))
    await cycle.send(piece(b"one", more=False))
    assert connection.body() == body
    assert connection.wire.written.count(b"transfer-encoding") == 1


@pytest.mark.parametrize("value", [b"close", b"Close", b"x, close"])
async def test_a_response_that_says_close_closes(value: bytes) -> None:
    connection = Connection()
    cycle = connection.cycle()
    await cycle.send(start((b"Connection", value), (b"content-length", b"0")))
    await cycle.send(piece(b"", more=False))
    assert connection.wire.closed
    assert connection.wire.written.lower().count(b"connection:") == 1


# --- the request ----------------------------------------------------------------------------------


async def test_a_body_that_has_come_is_taken_whole_and_once() -> None:
    cycle = Connection().cycle()
    cycle.add_body(b"one ")
    assert cycle.whole_body() is None
    cycle.add_body(b"two")
    cycle.end_body()
    assert cycle.whole_body() == b"one two"
    assert cycle.whole_body() is None
    assert cycle.pending_bytes == 0


async def test_a_connection_is_read_again_when_its_body_is_taken() -> None:
    connection = Connection()  # else nobody would notice that the client leaves
    cycle = connection.cycle()
    cycle.add_body(b"a" * 100_000)
    connection.flow.pause_reading()
    cycle.end_body()
    assert cycle.whole_body() is not None
    assert connection.wire.reading


async def test_a_body_that_comes_in_pieces_is_received() -> None:
    connection = Connection()
    cycle = connection.cycle(expect=True)
    connection.flow.pause_reading()
    receiving = asyncio.create_task(cycle.receive())
    await asyncio.sleep(0)
    assert connection.wire.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert connection.wire.reading
    cycle.add_body(b"one")
    assert await receiving == {"type": "http.request", "body": b"one", "more_body": True}
    cycle.end_body()
    assert await cycle.receive() == {"type": "http.request", "body": b"", "more_body": False}
    cycle.lose_client()
    assert await cycle.receive() == {"type": "http.disconnect"}


@pytest.mark.parametrize("left", [True, False], ids=["the client leaves", "the response ends"])
async def test_all_who_wait_for_a_message_learn_of_the_end(left: bool) -> None:
    cycle = Connection().cycle()
    waiting = [asyncio.create_task(cycle.receive()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    if left:
        cycle.lose_client()
    else:
        await cycle.send(START)
        await cycle.send(piece(b"", more=False))
    async with asyncio.timeout(1):
        assert [await task for task in waiting] == [{"type": "http.disconnect"}] * 2


# --- clients that leave ---------------------------------------------------------------------------


async def test_a_client_that_leaves_is_reported_once_to_whoever_asked_last() -> None:
    cycle, calls = Connection().cycle(), list[str]()
    cycle.on_disconnect(lambda: calls.append("first"))
    cycle.on_disconnect(lambda: calls.append("second"))
    cycle.lose_client()
    cycle.lose_client()
    assert calls == ["second"]


async def test_who_asks_late_is_told_soon_unless_it_has_changed_its_mind() -> None:
    cycle, calls = Connection().cycle(), list[str]()
    cycle.lose_client()
    cycle.on_disconnect(lambda: calls.append("late"))
    assert calls == []  # never from within the call
    await asyncio.sleep(0)
    assert calls == ["late"]
    cycle.on_disconnect(lambda: calls.append("too late"))
    cycle.on_disconnect(None)
    await asyncio.sleep(0)
    assert calls == ["late"]


async def test_the_end_of_a_response_is_no_disconnect() -> None:
    cycle, calls = Connection().cycle(), list[str]()
    cycle.on_disconnect(lambda: calls.append("left"))
    await cycle.send(START)
    await cycle.send(piece(b"", more=False))
    cycle.lose_client()
    assert calls == []
    assert not cycle.disconnected


# --- apps that fail -------------------------------------------------------------------------------


async def test_an_app_that_fails_before_its_response_is_answered_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(cycle: Cycle) -> None:
        raise ValueError("broken")

    connection = Connection()
    await run(connection, app)
    assert connection.wire.written.startswith(b"HTTP/1.1 500 ")
    assert connection.body() == b"Internal Server Error"
    assert connection.wire.closed
    assert "broken" in caplog.text


@pytest.mark.parametrize("error", [ValueError("broken"), asyncio.CancelledError(), None])
async def test_an_app_that_ends_within_its_response_cuts_the_connection(error: BaseException | None) -> None:
    async def app(cycle: Cycle) -> None:
        await cycle.send(START)
        await cycle.send(piece(b"one"))
        if error is not None:
            raise error

    connection = Connection()
    await run(connection, app)
    assert connection.body() == b"3\r\none\r\n"
    assert connection.wire.closed
    assert connection.completed == 0


async def test_an_app_that_answers_nothing_is_answered_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(cycle: Cycle) -> None:
        pass

    connection = Connection()
    await run(connection, app)
    assert connection.wire.written.startswith(b"HTTP/1.1 500 ")
    assert "without starting response" in caplog.text
