"""HTTP/1: the protocol of `exchange`, with a bound on what comes before a key or secret is checked.

What a whole request costs is bounded by the app. Here are the bounds on what is none yet:
connections, silence, heads (request line and headers) that do not end, requests that wait for the
one before them on the same connection, and answers that nobody reads.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from dataplane.openai import error_answers
from dataplane.openai import errors as openai_errors
from dataplane.openai.exchange.protocol import RequestProtocol
from dataplane.openai.held_bytes import HeldBytes
from dataplane.openai.http_limits import HttpLimits
from dataplane.openai.networks import network_of

_LINGER_S = 1.0
"""How long a refused connection is still read. Closing it with unread bytes resets it, and the
client would lose the answer."""
_HEADER_OBJECT_BYTES = 128
"""What Python keeps for a header besides its text."""
_PIPELINED_OBJECT_BYTES = 4096
"""What Python keeps for a request that waits, besides its text."""
_PARSED_AT_ONCE_BYTES = 16 * 1024
"""The parser cannot be stopped within what it is given."""
_UNREAD_BYTES_COUNTED = 128 * 1024
"""Of an answer that nobody reads, no more is counted. The rest is a list of models, which is the
same object in all answers: everything else is written in pieces, each when the last one is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """What the connections of one HTTP server share."""

    limits: HttpLimits
    count_refusal: Callable[[str], None]
    by_network: Counter[object]
    """Open connections, by `network_of`; without zeros."""
    small_head_bytes: int
    """A head of at most so many bytes is within every limit of bytes."""
    unfinished: HeldBytes[BoundProtocol]
    """What has been read and no app has seen."""
    unread: HeldBytes[BoundProtocol]
    """What was answered and no client reads."""


def protocol_class(limits: HttpLimits, count_refusal: Callable[[str], None]) -> type[asyncio.Protocol]:
    """The protocol of one HTTP server; uvicorn makes an instance for each connection.

    Args:
        limits: What a caller may send before it is a request.
        count_refusal: Called with the code of each error that is answered here.
    """

    class ServerProtocol(BoundProtocol):
        shared = _Server(
            limits=limits,
            count_refusal=count_refusal,
            by_network=Counter(),
            small_head_bytes=min(limits.max_url_bytes, limits.max_header_bytes),
            unfinished=HeldBytes(
                bytes_max=limits.max_unfinished_bytes, bytes_per_network_max=limits.max_unfinished_bytes_per_address
            ),
            unread=HeldBytes(
                bytes_max=limits.max_unread_bytes, bytes_per_network_max=limits.max_unread_bytes_per_address
            ),
        )

    return ServerProtocol


class BoundProtocol(RequestProtocol):
    """One connection. It is read by one event loop, so its state needs no lock."""

    shared: ClassVar[_Server]

    _bytes_before = 0
    """At least so many bytes more has an unfinished head that began in the read that ended another
    request."""
    _pipelined_bytes = 0
    """Bytes of the reads since requests wait for the one before them."""
    _holds = False
    """Whether it may be among the shared `unfinished`."""
    _head_timer: asyncio.TimerHandle | None = None
    """Runs while no request is in progress, from the first byte of the next one or from the
    connection's start. uvicorn's own timer covers a connection that waits in silence."""
    _network: object = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._network = network_of(self.client[0]) if self.client else None
        counts = self.shared.by_network
        counts[self._network] += 1
        limits = self.shared.limits
        if len(self.connections) > limits.max_connections:
            self._refuse(openai_errors.TooManyConnections("this server", limits.max_connections))
        elif counts[self._network] > limits.max_connections_per_address:
            self._refuse(openai_errors.TooManyConnections("your address", limits.max_connections_per_address))
        else:
            self._start_head_timer()
            return
        transport.close()  # at once: a connection that lingers would count

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self.shared.unfinished.release(self)
        self.shared.unread.release(self)
        counts = self.shared.by_network
        counts[self._network] -= 1
        if not counts[self._network]:
            del counts[self._network]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        self._unread_bytes += len(data)
        try:
            if len(data) <= _PARSED_AT_ONCE_BYTES:
                self._parse(data)
            else:
                self._parse_in_slices(memoryview(data))
            if self._unread_bytes or self._in_head or self.pipeline:
                if not self._hold(len(data)):
                    return
            elif self._holds:
                self._release()
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, openai_errors.IngressError) else openai_errors.InvalidHttp())
            return
        except openai_errors.TooManyHeaders as error:
            self._refuse(error)
            return
        if self._unread_bytes > self.shared.limits.max_header_bytes + self.shared.limits.max_url_bytes:
            self._refuse(openai_errors.HeadersTooLarge(self.shared.limits.max_header_bytes))
        elif self._head_timer is None and not self._in_progress():
            self._start_head_timer()

    def _hold(self, read_bytes: int) -> bool:
        """Count what this connection holds that no app has seen, after a read of so many bytes.

        Returns False if it has to give way, and was refused.

        Raises:
            openai_errors.TooManyHeaders: It has too many headers or trailers.
        """
        self._check_header_fields()
        if self._in_head and not self._unread_bytes:
            self._bytes_before = read_bytes
        held_bytes = self._bytes_before + self._unread_bytes + _HEADER_OBJECT_BYTES * len(self.headers or ())
        if self.pipeline:
            self._pipelined_bytes += read_bytes
            held_bytes += self._pipelined_bytes + _PIPELINED_OBJECT_BYTES * len(self.pipeline)
        self._holds = True
        for late in self.shared.unfinished.hold(self, self._network, held_bytes):
            late._refuse(openai_errors.TooManyUnfinished())
        return not self._refused

    def _release(self) -> None:
        self._holds = False
        self.shared.unfinished.release(self)

    def _parse_in_slices(self, data: memoryview) -> None:
        # So that a read with thousands of headers is given up before it takes milliseconds.
        for start in range(0, len(data), _PARSED_AT_ONCE_BYTES):
            self._parse(data[start : start + _PARSED_AT_ONCE_BYTES])
            self._check_header_fields()

    def _check_header_fields(self) -> None:
        # Trailers are among them. There are none before the first request.
        if len(self.headers or ()) > self.shared.limits.max_header_fields:
            raise openai_errors.TooManyHeaders(self.shared.limits.max_header_fields)

    def on_headers_complete(self) -> None:
        if self._unread_bytes > self.shared.small_head_bytes:  # at least as much as this head
            self._check_head()
        if len(self.headers) > self.shared.limits.max_header_fields:
            raise openai_errors.TooManyHeaders(self.shared.limits.max_header_fields)
        self._unread_bytes = self._bytes_before = 0
        self._in_head = False
        if self._head_timer is not None:
            self._stop_head_timer()
        if not self.parser.should_upgrade():  # then `_parse` gives the head once more
            self._begin_request()
            if len(self.pipeline) > self.shared.limits.max_pipelined_requests:
                raise httptools.HttpParserError("too many pipelined requests")
        if self._holds and not self.pipeline:
            self._release()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._holds and not self.pipeline:
            self._pipelined_bytes = 0
            if not self._in_head:
                self._release()

    # --- answers that nobody reads ----------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        unread_bytes = min(self.transport.get_write_buffer_size(), _UNREAD_BYTES_COUNTED)
        for late in self.shared.unread.hold(self, self._network, unread_bytes):
            late.transport.abort()

    def resume_writing(self) -> None:
        self.shared.unread.release(self)
        super().resume_writing()

    def _check_head(self) -> None:
        limits = self.shared.limits
        if len(self.url) > limits.max_url_bytes:
            raise openai_errors.UrlTooLong(limits.max_url_bytes)
        if sum(len(name) + len(value) for name, value in self.headers) > limits.max_header_bytes:
            raise openai_errors.HeadersTooLarge(limits.max_header_bytes)

    # --- upgrades ---------------------------------------------------------------------------------

    def _parse(self, data: bytes | memoryview) -> None:
        """Parse, and answer requests for another protocol over HTTP/1.1 (RFC 9110 §7.8).

        The parser takes all that follows `Upgrade` for the other protocol, so it would lose the
        body. Such a head is read again without that header. Java's HttpClient sends `Upgrade: h2c`
        with every request.
        """
        rest: bytes | memoryview = data
        while rest:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":
                    raise httptools.HttpParserError("this is no proxy") from None
                rest = memoryview(rest)[upgrade.args[0] :]
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self.parser.feed_data(head)

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # --- refusals ---------------------------------------------------------------------------------

    def _in_progress(self) -> bool:
        # None before the first request, which uvicorn's types leave out.
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.shared.limits.head_read_timeout_s, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._unread_bytes:
            self._refuse(openai_errors.HeadTimeout(self.shared.limits.head_read_timeout_s))
        else:
            self.transport.close()

    def _refuse(self, error: openai_errors.IngressError) -> None:
        """Answer what is no request, and read nothing more from this connection."""
        self._refused = True
        self._stop_head_timer()
        # What was read is not needed any more, and the connection lingers.
        self._release()
        self.parser = self.headers = self.url = None  # type: ignore[assignment]  # as before the first
        if self._in_progress():  # the answer would be taken for a part of the one that is being sent
            self.transport.close()
            return
        answer = error_answers.answer_for(error)
        self.shared.count_refusal(answer.code)
        headers = (*answer.headers, (b"content-length", str(len(answer.body)).encode()))
        lines = (b"%s: %s\r\n" % header for header in headers)
        self.transport.write(b"".join((STATUS_LINE[answer.status], *lines, b"\r\n", answer.body)))
        if self.transport.can_write_eof():  # not with TLS
            self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)
