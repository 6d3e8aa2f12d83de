"""A mock engine that is not the limit: prebuilt bytes, and several processes on one port.

    python -m tests.bench.ingress.served.engine PORT

Each piece of a stream is a write of its own, in a turn of the event loop of its own: nothing before
a subject joins them. It understands what the subjects send: no pipelining, and bodies of a known
length. It closes the connection on anything else.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import re
import socket

import uvloop

from tests.bench.ingress import answers

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NAME = re.compile(rb"bench:([a-z0-9-]+)")
_USAGE = b'"continuous_usage_stats"'
_HEAD_BYTES_MAX = 64 * 1024
_BODY_BYTES_READ = 8 * 1024
"""Of a body, the answer's name is looked for in so many bytes. The rest is counted."""


@functools.cache
def _pieces(name: str, usage: bool) -> tuple[bytes, ...]:
    """The pieces of a stream, the last one first."""
    return tuple(answers.pieces(answers.stream_of(name), usage=usage))[::-1]


class EngineConnection(asyncio.Protocol):
    """One connection to the mock engine."""

    _transport: asyncio.Transport
    _unary = answers.whole(answers.unary_json())

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._head = b""
        self._body = b""
        self._missing = -1
        """Bytes of the body that have not come. -1: the head is not complete."""
        self._stream: list[bytes] | None = None
        """What is still to be written of a stream, the next piece last."""
        self._interval_s = 0.0
        self._paused = False
        self._held_up = False
        """A piece was due while the transport was full."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a TCP server
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head) > _HEAD_BYTES_MAX:
                    self._transport.abort()
                return
            length = _LENGTH.search(self._head, 0, end)
            self._body = self._head[end + 4 :]
            self._missing = (int(length[1]) if length else 0) - len(self._body)
        else:
            self._missing -= len(data)
            if len(self._body) < _BODY_BYTES_READ:
                self._body += data
        if self._missing == 0 and self._stream is None:
            self._answer()
        elif self._missing <= 0:
            self._transport.abort()

    def _answer(self) -> None:
        if not self._head.startswith(b"POST"):
            self._transport.write(answers.MODELS)
            self._await_next()
            return
        found = _NAME.search(self._body)
        name = found[1].decode() if found else ""
        if name == answers.UNARY:
            self._transport.write(self._unary)
            self._await_next()
            return
        self._interval_s = answers.stream_of(name).interval_s
        self._stream = list(_pieces(name, _USAGE in self._body))
        self._transport.write(answers.STREAM_HEAD)
        self._loop.call_soon(self._write_next)

    def _write_next(self) -> None:
        if self._stream is None:
            return  # the client has gone
        if self._paused:
            self._held_up = True
            return
        self._transport.write(self._stream.pop())
        if not self._stream:
            self._await_next()  # now: the next request may come before the next turn
        elif self._interval_s:
            self._loop.call_later(self._interval_s, self._write_next)
        else:
            self._loop.call_soon(self._write_next)

    def _await_next(self) -> None:
        self._head = self._body = b""
        self._missing = -1
        self._stream = None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._held_up:
            self._held_up = False
            self._write_next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream = None


def shared_listener(port: int) -> socket.socket:
    """A socket that is bound to a port which processes share. It does not listen yet."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind(("127.0.0.1", port))
    return listener


async def serve(port: int) -> None:
    """Serve until it is cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: EngineConnection(loop), sock=shared_listener(port), backlog=4096)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
