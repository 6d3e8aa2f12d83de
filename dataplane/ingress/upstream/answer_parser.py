"""Reads the answers on one connection, one after the other, from the bytes as they come.

It has no I/O: it is fed with bytes, and says what they mean.
"""

from __future__ import annotations

import httptools

from dataplane.ingress.upstream.headers import NOT_TO_CALLER, OWN_PREFIX
from dataplane.openai.asgi import Headers

_UNFRAMED_BYTES_MAX = 64 * 1024
"""Bytes without a piece of the body among them: a head with all its interim answers, the
extensions of chunks, or trailers."""
_FIELDS_MAX = 128
"""Headers of an answer with its interim answers, and as many trailers."""


class AnswerParser:
    """Reads answers to POST. After `begin` it reads one."""

    def __init__(self) -> None:
        self.ended = True
        """No more of the body comes: there is no request, or its answer is whole or has a fault."""
        self.whole = False
        """The answer has come to its end."""
        self.keeps_alive = False
        """The answer was whole, and another one may follow on the same connection."""
        self.fault = ""
        """Why it ended before it was whole."""
        self.status = 0
        """0: the head has not come yet."""
        self.headers: Headers = []
        """What the caller may get of them; names in lower case."""
        self.kept_back: Headers = []
        """The other headers."""
        self.content_type = b""
        self._fields = 0
        self._unframed_bytes = 0
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # without a frame of Python for each chunk
        self._parser = httptools.HttpResponseParser(self)

    def begin(self) -> None:
        """Expect the answer to another request."""
        self.ended = self.whole = self.keeps_alive = False
        self.status = self._fields = self._unframed_bytes = 0
        self.headers, self.kept_back, self.content_type = [], [], b""

    def feed(self, data: bytes) -> bytes:
        """Read what has come. Returns the bytes of the body in it."""
        self._unframed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._give_up(f"malformed answer: {error.__context__ or error}")
        pieces = self._pieces
        if pieces:
            self._unframed_bytes = 0
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            return body
        if self._unframed_bytes > _UNFRAMED_BYTES_MAX:
            self._give_up("malformed answer: too many bytes of headers")
        return b""

    def feed_eof(self) -> None:
        """The connection has ended. That may be the end of the answer."""
        if self.ended:
            return
        if self.status and not self._has_length():
            self.ended = self.whole = True
        else:
            self._give_up("the connection ended")

    def kept_back_value(self, name: bytes) -> bytes | None:
        """A header of the answer that the caller does not get."""
        for other, value in self.kept_back:
            if other == name:
                return value
        return None

    def _give_up(self, fault: str) -> None:
        if self.whole:  # what came after the answer is no part of it
            self.keeps_alive = False
        else:
            self.ended, self.fault = True, fault

    def _has_length(self) -> bool:
        chunked = self.kept_back_value(b"transfer-encoding") is not None
        return chunked or any(name == b"content-length" for name, _ in self.headers)

    # --- called by httptools ----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.ended:
            raise httptools.HttpParserError("bytes after the end of an answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > _FIELDS_MAX:
            raise httptools.HttpParserError("too many headers")
        if self.status:
            return  # trailers
        name = name.lower()
        if name in NOT_TO_CALLER or name.startswith(OWN_PREFIX):
            if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                raise httptools.HttpParserError("transfer coding that is not supported")
            self.kept_back.append((name, value))
        else:
            if name == b"content-type":
                self.content_type = value
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            if self._unframed_bytes > _UNFRAMED_BYTES_MAX and self._head_bytes() > _UNFRAMED_BYTES_MAX:
                raise httptools.HttpParserError("too many bytes of headers")
            self.status, self._fields = status, 0
        elif 100 <= status != 101:  # an interim answer; the final one follows
            self.headers, self.kept_back, self.content_type = [], [], b""
        else:
            raise httptools.HttpParserError(f"status {status}")

    def on_message_complete(self) -> None:
        if self.status:
            self.ended = self.whole = True
            self.keeps_alive = self._parser.should_keep_alive()

    def _head_bytes(self) -> int:
        return sum(len(name) + len(value) for name, value in (*self.headers, *self.kept_back))
