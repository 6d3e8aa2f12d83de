"""Unary gRPC calls, as many as a server answers: a load generator that is not the limit.

gRPC's own client for Python takes more CPU for a call than etcd does, and about as much as our
control plane. On a machine with two cores it would measure itself. Here a call is two frames of
HTTP/2 that are mostly made beforehand, and takes some 20 µs.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.hostile import http2

_TIMEOUT_S = 30.0
_RECEIVE_BYTES = 256 * 1024

_WINDOW_BYTES = 2**30
"""Of answers, for the whole connection. It is renewed when half of it is used."""

_SETTINGS = b"".join(
    name.to_bytes(2, "big") + value.to_bytes(4, "big")
    for name, value in (
        # HEADER_TABLE_SIZE 0: the server's headers need no state to be skipped.
        (1, 0),
        # ENABLE_PUSH 0, as clients of gRPC send it.
        (2, 0),
        (http2.INITIAL_WINDOW_SIZE, 1024 * 1024),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Calls of one method."""

    address: str
    """HOST:PORT, without TLS."""
    method: str
    """`/package.Service/Method`."""
    metadata: Sequence[tuple[str, str]] = ()
    request: Callable[[int], bytes]
    """The serialised request of a call, by the number of the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a load made of a server."""

    calls: int
    seconds: float
    cpu_s: float
    """Of the load generator."""

    @property
    def per_second(self) -> float:
        return self.calls / self.seconds


class Load:
    """One connection with calls, each of which must be answered with a message."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._headers = http2.call_fields(
            calls.method, *((name.encode(), value.encode()) for name, value in calls.metadata)
        )
        self._next_stream = 1
        self._room_bytes = http2.WINDOW_BYTES
        """What the server takes in all of its streams."""
        self._taken_bytes = 0
        """What came since the window was renewed."""
        self._answered: set[int] = set()
        """Streams whose message has come, and whose end has not."""
        self._ended = 0

    def run(self, clients: int, seconds: float) -> Measured:
        """Keep `clients` calls going for this long, and wait for the last of them.

        Raises:
            ConnectionError: The server ended the connection.
            RuntimeError: It refused a call.
            TimeoutError: It did not answer for 30 s.
        """
        host, _, port = self._calls.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=_TIMEOUT_S) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            window = http2.frame(http2.WINDOW_UPDATE, 0, 0, _WINDOW_BYTES.to_bytes(4, "big"))
            connection.sendall(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, _SETTINGS) + window)
            cpu_s, began = time.thread_time(), time.perf_counter()
            begun, received, reply = 0, b"", b""
            going_on = True
            while going_on or self._ended < begun:
                going_on = time.perf_counter() - began < seconds
                free = clients - (begun - self._ended) if going_on else 0
                parts = [reply]
                for number in range(begun, begun + free):
                    message = http2.message(self._calls.request(number))
                    if len(message) > self._room_bytes:
                        break
                    parts.append(self._call(message))
                    begun += 1
                connection.sendall(b"".join(parts))
                if self._ended < begun or self._room_bytes == 0:
                    content = connection.recv(_RECEIVE_BYTES)
                    if not content:
                        raise ConnectionError("the server ended the connection")
                    received, reply = self._take(received + content)
            return Measured(calls=self._ended, seconds=time.perf_counter() - began, cpu_s=time.thread_time() - cpu_s)

    def _call(self, message: bytes) -> bytes:
        stream = self._next_stream
        self._next_stream += 2
        self._room_bytes -= len(message)
        return http2.frame(http2.HEADERS, http2.END_HEADERS, stream, self._headers) + http2.data_frames(
            stream, message, end=True
        )

    def _take(self, received: bytes) -> tuple[bytes, bytes]:
        """Read whole frames. Returns the bytes of one that is incomplete, and what to reply."""
        start, replies = 0, []
        while (end := start + 9) <= len(received):
            end += int.from_bytes(received[start : start + 3], "big")
            if end > len(received):
                break
            kind, flags = received[start + 3], received[start + 4]
            stream = int.from_bytes(received[start + 5 : start + 9], "big")
            if kind == http2.DATA:
                self._taken_bytes += end - start - 9
                if end - start > 9:
                    self._answered.add(stream)
            elif kind == http2.SETTINGS and not flags & http2.ACK:
                replies.append(http2.frame(http2.SETTINGS, http2.ACK, 0))
            elif kind == http2.PING and not flags & http2.ACK:
                replies.append(http2.frame(http2.PING, http2.ACK, 0, received[start + 9 : end]))
            elif kind == http2.WINDOW_UPDATE and stream == 0:
                self._room_bytes += int.from_bytes(received[start + 9 : end], "big")
            elif kind in (http2.RST_STREAM, 7):
                raise RuntimeError(f"the server refused a call: {received[start:end]!r}")
            if kind in (http2.DATA, http2.HEADERS) and flags & http2.END_STREAM:
                if stream not in self._answered:
                    raise RuntimeError(f"the server refused a call: {received[start:end]!r}")
                self._answered.remove(stream)
                self._ended += 1
            start = end
        if self._taken_bytes > _WINDOW_BYTES // 2:
            replies.append(http2.frame(http2.WINDOW_UPDATE, 0, 0, self._taken_bytes.to_bytes(4, "big")))
            self._taken_bytes = 0
        return received[start:], b"".join(replies)
