"""What one connection does with reads that follow each other before its task has a turn."""

from __future__ import annotations

import asyncio

import pytest

from dataplane.ingress.upstream.connection import Connection
from dataplane.ingress.upstream.failures import UpstreamFailed

EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


class Wire(asyncio.Transport):
    """Keeps what is written, and whether anything is read."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.is_read = True
        self.is_open = True

    def reads(self) -> bool:
        """A call, which mypy expects to change from one to the next."""
        return self.is_read

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return not self.is_open

    def abort(self) -> None:
        self.is_open = False

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def get_write_buffer_size(self) -> int:
        return 0


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


async def asked() -> tuple[Connection, Wire]:
    """A connection whose request was sent, with the head of the answer and its first piece."""
    wire = Wire()
    connection = Connection(endpoint="http://x:1", tls=None, host_timeout_s=15, on_lost=lambda _: None)
    connection._transport = wire
    await connection.send(b"POST / HTTP/1.1\r\n\r\n", (b"{", memoryview(b"}")), 2)
    assert wire.sent == b"POST / HTTP/1.1\r\n\r\n{}"
    connection.data_received(EVENTS + chunk(b"1"))
    await connection.head()
    assert await connection.more() == b"1"
    return connection, wire


async def test_nothing_is_written_until_a_slow_caller_has_room() -> None:
    connection, wire = await asked()
    written: list[bytes] = []

    def write(piece: bytes) -> bool:
        written.append(piece)
        return False

    passing = asyncio.create_task(connection.pass_on(write))
    await asyncio.sleep(0)
    for piece in (b"2", b"3", b"4"):
        connection.data_received(chunk(piece))
    assert written == [b"2"]
    assert not await passing
    connection.data_received(chunk(b"5") + END)
    assert not await connection.pass_on(write), "what was held is written at once, and again there is no room"
    assert written == [b"2", b"345"]
    assert await connection.pass_on(write)
    assert connection.can_be_kept()
    assert wire.is_open


async def test_the_last_piece_may_find_no_room() -> None:
    connection, _ = await asked()
    passing = asyncio.create_task(connection.pass_on(lambda piece: False))
    await asyncio.sleep(0)
    connection.data_received(chunk(b"2") + END)
    assert await passing


async def test_no_more_is_read_while_much_is_held() -> None:
    connection, wire = await asked()
    fed = 0
    while wire.reads():
        connection.data_received(chunk(b"x" * 1000))
        fed += 1000
    assert 64 * 1024 < fed < 68 * 1024
    assert await connection.more() == b"x" * fed
    assert wire.reads()
    connection.data_received(chunk(b"x" * 100_000) + END)
    assert not wire.reads()
    connection.become_idle()
    assert wire.reads(), "an idle connection has to notice its end"


async def test_what_a_write_raises_is_raised_in_its_task_and_ends_the_stream() -> None:
    connection, wire = await asked()

    def write(piece: bytes) -> bool:
        if piece == b"2":
            raise RuntimeError("longer than declared")
        return True

    passing = asyncio.create_task(connection.pass_on(write))
    await asyncio.sleep(0)
    connection.data_received(chunk(b"2"))
    with pytest.raises(RuntimeError, match="longer than declared"):
        await passing
    assert not wire.is_open


async def test_what_has_come_before_a_fault_is_passed_on() -> None:
    connection, wire = await asked()
    written: list[bytes] = []

    def write(piece: bytes) -> bool:
        written.append(piece)
        return True

    passing = asyncio.create_task(connection.pass_on(write))
    await asyncio.sleep(0)
    connection.data_received(chunk(b"2") + b"nonsense\r\n")
    with pytest.raises(UpstreamFailed, match="malformed answer") as caught:
        await passing
    assert not caught.value.refused
    assert written == [b"2"]
    assert not wire.is_open


async def test_silence_is_counted_from_the_check_that_heard_something() -> None:
    connection, wire = await asked()
    for now in range(0, 100, 10):
        if now == 40:
            connection.data_received(chunk(b"x"))
            assert await connection.more() == b"x"
        connection.check_silence(now, 50)
        assert wire.is_open is (now < 90)
    with pytest.raises(UpstreamFailed, match="silent for too long"):
        await connection.more()
