"""A load generator and an engine that cost less than what is measured: protocols without a library.

Both know only what the benchmarks send: `Content-Length` requests and answers, and answers in
chunks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_ANSWER = b'{"id":"1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"ok"}}]}'
_EVENT = b'data: {"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" ok"}}]}\n\n'
_CHUNK = b"%x\r\n%s\r\n" % (len(_EVENT), _EVENT)
_UNARY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: " + str(len(_ANSWER)).encode() + b"\r\n\r\n"
) + _ANSWER
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "


class Engine(asyncio.Protocol):
    """One connection of an engine that answers at once, and streams a chunk in each turn."""

    def __init__(self, chunks: int) -> None:
        """
        Args:
            chunks: Events of a stream.
        """
        self._chunks = chunks
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of TCP
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(_HEAD_END)
        if not end or len(rest) < (length := _length(head)):
            return
        body, self._received = rest[:length], rest[length:]
        if b'"stream":true' in body:
            self._transport.write(_STREAM_HEAD)
            self._write_chunk(self._chunks)
        else:
            self._transport.write(_UNARY)

    def _write_chunk(self, left: int) -> None:
        if not left:
            self._transport.write(_LAST_CHUNK)
            return
        self._transport.write(_CHUNK)
        asyncio.get_running_loop().call_soon(self._write_chunk, left - 1)


@dataclass(slots=True)
class Answered:
    """What the callers of one process have got."""

    count: int = 0
    latencies_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Caller(asyncio.Protocol):
    """One kept connection that sends a request as soon as the answer before it has ended."""

    def __init__(self, request: bytes, answered: Answered) -> None:
        self._request = request
        self._answered = answered
        self._received = b""
        self._missing = -1
        """Bytes of the answer that are still to come. -1: its head is; -2: it ends with a chunk."""
        self._begun = 0.0
        self._transport: asyncio.Transport
        self.stops = False
        """Whether the answer in progress is the last one."""
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of TCP
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        if self._missing == -1:
            self._received += data
            head, end, data = self._received.partition(_HEAD_END)
            if not end:
                return
            self._received = b""
            if not head.startswith(b"HTTP/1.1 200"):
                self._answered.failures.append(head.decode(errors="replace"))
                self._transport.close()
                return
            self._missing = -2 if _LENGTH not in head else _length(head)
        if self._missing == -2:
            self._received = (self._received + data)[-len(_LAST_CHUNK) :]
            if self._received != _LAST_CHUNK:
                return
        else:
            self._missing -= len(data)
            if self._missing:
                return
        self._answered.count += 1
        self._answered.latencies_s.append(time.perf_counter() - self._begun)
        if self.stops:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.stops and not self._answered.failures:
            self._answered.failures.append(f"the connection ended: {exc}")
        if not self.ended.done():
            self.ended.set_result(None)

    def _send(self) -> None:
        self._received, self._missing = b"", -1
        self._begun = time.perf_counter()
        self._transport.write(self._request)


async def call(port: int, request: bytes, *, connections: int, seconds: float) -> Answered:
    """Send requests over kept connections for a while.

    Raises:
        RuntimeError: One was not answered with 200.
    """
    loop = asyncio.get_running_loop()
    answered = Answered()
    callers: list[Caller] = []
    for _ in range(connections):
        _, caller = await loop.create_connection(lambda: Caller(request, answered), "127.0.0.1", port)
        callers.append(caller)
    await asyncio.sleep(seconds / 10)  # all are connected and warm
    before = answered.count
    answered.latencies_s.clear()
    begun = time.perf_counter()
    await asyncio.sleep(seconds)
    result = Answered(round((answered.count - before) * seconds / (time.perf_counter() - begun)))
    result.latencies_s = list(answered.latencies_s)
    for caller in callers:
        caller.stops = True
    await asyncio.wait([caller.ended for caller in callers], timeout=10)
    if answered.failures:
        raise RuntimeError(answered.failures[0])
    return result


def post(path: str, body: bytes) -> bytes:
    """A request as bytes."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def p50_ms(latencies_s: Sequence[float]) -> float:
    """The median, in milliseconds; 0 without any."""
    return sorted(latencies_s)[len(latencies_s) // 2] * 1000 if latencies_s else 0.0


def _length(head: bytes) -> int:
    _, _, value = head.lower().partition(_LENGTH)
    return int(value.partition(b"\r\n")[0] or 0)
