"""The bytes of one HTTP/1 response, as they are written to a connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE

_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection"))
"""Response headers that say where the response, or the connection, ends."""
_WITHOUT_BODY = frozenset((204, 304))
_COPIED_BYTES_MAX = 16 * 1024
"""A larger chunk is handed to the transport as it is, between the two parts of its frame."""


class Connection(Protocol):
    """The connection that a response is written to."""

    transport: asyncio.Transport
    flow: FlowControl
    loop: asyncio.AbstractEventLoop
    logger: logging.Logger

    def on_response_complete(self) -> None:
        """The response has been written."""
        ...


class Response:
    """One response. A body of unknown length is sent in chunks, or to HTTP/1.0 until the end of the
    connection.
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
        self._is_chunked = False
        self._bytes_left: int | None = 0
        """Of the body, by its `content-length`; None: its end says where it ends."""

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        names, values, lines = [], [], [STATUS_LINE[status]]
        is_framed = says_close = False
        for given, value in (*self._default_headers, *headers):
            name = given.lower()
            names.append(name)
            values.append(value)
            lines.append(b"%b: %b\r\n" % (name, value))
            if name in _FRAMING:
                if name == b"connection":
                    says_close = says_close or b"close" in [word.strip() for word in value.lower().split(b",")]
                elif name == b"transfer-encoding":
                    is_framed = self._is_chunked = value.lower() == b"chunked"
                    self._bytes_left = None if is_framed else 0
                elif not is_framed:
                    is_framed, self._bytes_left = True, int(value)
        # All at once: what is in one of them is in all.
        if HEADER_RE.search(b"".join(names)):
            raise RuntimeError("Invalid HTTP header name.")
        if HEADER_VALUE_RE.search(b"".join(values)):
            raise RuntimeError("Invalid HTTP header value.")
        if not (is_framed or self._is_head or status in _WITHOUT_BODY):
            self._bytes_left, self._is_chunked = None, self._knows_chunks
            if self._is_chunked:
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = False  # the end of the connection ends the body
        self.keep_alive = self.keep_alive and not says_close
        if not (self.keep_alive or says_close):
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self.transport.write(b"".join(lines))

    def _write(self, body: bytes, *, more_body: bool) -> None:
        if self._is_head:
            self._bytes_left = 0
        elif self._is_chunked:
            if not body:
                pass  # a chunk without a byte would end the body
            elif len(body) <= _COPIED_BYTES_MAX:
                self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
            else:
                self.transport.writelines((b"%x\r\n" % len(body), body, b"\r\n"))
            if not more_body:
                self.transport.write(b"0\r\n\r\n")
        elif body:
            if self._bytes_left is not None:
                if len(body) > self._bytes_left:
                    raise RuntimeError("Response content longer than Content-Length")
                self._bytes_left -= len(body)
            self.transport.write(body)
        if not more_body:
            if self._bytes_left:
                raise RuntimeError("Response content shorter than Content-Length")
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self.transport.close()
        self._connection.on_response_complete()
