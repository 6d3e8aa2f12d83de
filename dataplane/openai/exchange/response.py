"""The bytes of one HTTP/1 response, as they are written to a connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from itertools import chain
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE

_WITHOUT_BODY = frozenset((204, 304))
_COPIED_BYTES_MAX = 16 * 1024
"""A larger piece is handed to the transport as it is, between head and frame."""
_header_line = b"%b: %b\r\n".__mod__
"""The line of a header, of its name and value."""
_LAST_CHUNK = b"0\r\n\r\n"


class Connection(Protocol):
    """The connection that a response is written to."""

    transport: asyncio.Transport
    flow: FlowControl
    loop: asyncio.AbstractEventLoop
    logger: logging.Logger
    tasks: set[asyncio.Task[None]]
    """The apps that answer, on all connections of the server."""

    def on_response_complete(self) -> None:
        """The response has been written."""
        ...


class Response:
    """One response. A body of unknown length is sent in chunks, or to HTTP/1.0 until the end of the
    connection.

    The head is written with the first piece of the body, as ASGI has it: each write is a system
    call, and wakes the client.
    """

    def __init__(
        self,
        connection: Connection,
        method: str,
        http_version: str,
        default_headers: list[tuple[bytes, bytes]],
        *,
        keep_alive: bool,
    ) -> None:
        """
        Args:
            connection: Where it is written to.
            method: Of the request.
            http_version: `1.1` or `1.0`.
            default_headers: Of every response.
            keep_alive: Whether another request may follow on the connection.
        """
        self.transport = connection.transport
        self.keep_alive = keep_alive
        self.response_started = False
        self.response_complete = False
        self._connection = connection
        self._default_headers = default_headers
        self._is_head = method == "HEAD"
        self._knows_chunks = http_version != "1.0"
        self._head = b""
        """Not written yet."""
        self._is_chunked = False
        self._bytes_left: int | None = 0
        """Of the body, by its `content-length`; None: its end says where it ends."""

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        pairs = [*self._default_headers, *map(tuple, headers)]
        flat = list(chain.from_iterable(pairs))
        names, values = flat[::2], flat[1::2]
        # All at once: what is in one of them is in all.
        all_names = b"".join(names)
        if HEADER_RE.search(all_names):
            raise RuntimeError("Invalid HTTP header name.")
        if HEADER_VALUE_RE.search(b"".join(values)):
            raise RuntimeError("Invalid HTTP header value.")
        if all_names != all_names.lower():
            names = [name.lower() for name in names]
            pairs = list(zip(names, values, strict=True))
        lines = b"".join(map(_header_line, pairs)) + self._frame(status, names, values)
        self._head = b"%b%b\r\n" % (STATUS_LINE[status], lines)

    def _frame(self, status: int, names: list[bytes], values: list[bytes]) -> bytes:
        """Find where the response ends. Returns the lines that say so, if the headers do not."""
        lines = b""
        if b"transfer-encoding" in names and values[names.index(b"transfer-encoding")].lower() == b"chunked":
            self._bytes_left, self._is_chunked = None, not self._is_head
        elif b"content-length" in names:
            self._bytes_left = int(values[names.index(b"content-length")])
        elif not (self._is_head or status in _WITHOUT_BODY):
            self._bytes_left, self._is_chunked = None, self._knows_chunks
            if self._is_chunked:
                lines = b"transfer-encoding: chunked\r\n"
            else:
                self.keep_alive = False  # the end of the connection ends the body
        if b"connection" in names and _says_close(names, values):
            self.keep_alive = False
        elif not self.keep_alive:
            lines += b"connection: close\r\n"
        return lines

    def _write(self, body: bytes, *, more_body: bool) -> None:
        head, self._head = self._head, b""
        if self._is_head:
            self._bytes_left, body = 0, b""
        if self._is_chunked:
            before, after = head, b"" if more_body else _LAST_CHUNK
            if body:  # a chunk without a byte would end the body
                before, after = b"%b%x\r\n" % (head, len(body)), b"\r\n" + after
        else:
            before, after = head, b""
            if body and self._bytes_left is not None:
                if len(body) > self._bytes_left:
                    raise RuntimeError("Response content longer than Content-Length")
                self._bytes_left -= len(body)
        if len(body) > _COPIED_BYTES_MAX:
            self.transport.writelines((before, body, after))
        elif before or body or after:
            self.transport.write(before + body + after)
        if not more_body:
            if self._bytes_left:
                raise RuntimeError("Response content shorter than Content-Length")
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self.transport.close()
        self._connection.on_response_complete()


def _says_close(names: list[bytes], values: list[bytes]) -> bool:
    """Whether one of the `connection` headers has the option `close`."""
    options = b",".join(value for name, value in zip(names, values, strict=True) if name == b"connection")
    return b"close" in [option.strip() for option in options.lower().split(b",")]
