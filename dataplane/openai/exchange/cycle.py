"""One request on an HTTP/1 connection, and its response: what the app receives and sends.

It does what uvicorn's cycle does, with less for each message, and answers HTTP/1.0 without chunks.
Beside ASGI's own messages it offers three functions to the app, in `scope["extensions"]`:

- `broadsheet.body`, a `WholeBody`: no message has to be received, nor a time limit set, for a body
  that has come with its head.
- `broadsheet.write`, a `WriteNow`: a piece of the body is written without a message or a coroutine.
- `broadsheet.on_disconnect`, an `OnDisconnect`: nobody has to wait for a message that says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from dataplane.openai.exchange.response import Connection, Response

_Message = Any
"""ASGI messages are dicts whose keys depend on their type."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_FAILED: Iterable[tuple[bytes, bytes]] = (
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"21"),
    (b"connection", b"close"),
)
_FAILED_BODY = b"Internal Server Error"


class Cycle(Response):
    """One request and its response."""

    def __init__(
        self,
        connection: Connection,
        method: str,
        http_version: str,
        default_headers: list[tuple[bytes, bytes]],
        *,
        keep_alive: bool,
        expect_100_continue: bool,
    ) -> None:
        """
        Args:
            connection: Where it came.
            method: Of the request.
            http_version: `1.1` or `1.0`.
            default_headers: Of every response.
            keep_alive: Whether another request may follow on the connection.
            expect_100_continue: Whether the client sends the body only when it is asked to.
        """
        super().__init__(connection, method, http_version, default_headers, keep_alive=keep_alive)
        self.flow = connection.flow
        self.waiting_for_100_continue = expect_100_continue
        self.disconnected = False
        self.more_body = True
        """Whether more of the request's body may come."""
        self.pending_bytes = 0
        """Of the request's body: what has come and was not received yet."""
        self._pieces: list[bytes] = []
        """The same bytes."""
        self._is_news = False
        """Whether there is a message to receive: a piece of the body, or its end."""
        self._news: asyncio.Event | None = None
        """Set when there is one. None: nobody has waited yet."""
        self._on_disconnect: Callable[[], None] | None = None

    # --- the app ----------------------------------------------------------------------------------

    def end(self, task: asyncio.Task[None]) -> None:
        """The app has returned, or failed: bring the response to an end if it has not.

        Args:
            task: The app's.
        """
        self._connection.tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._connection.logger.error("Exception in ASGI application\n", exc_info=error)
        if self.response_complete or self.disconnected:
            return
        if error is None:
            what = "completing" if self.response_started else "starting"
            self._connection.logger.error("ASGI callable returned without %s response.", what)
        if self.response_started:
            self.transport.close()
        else:
            self._start(500, _FAILED)
            self._write(_FAILED_BODY, more_body=False)

    # --- what the connection reports --------------------------------------------------------------

    def add_body(self, piece: bytes) -> None:
        """A piece of the request's body has come."""
        self._pieces.append(piece)
        self.pending_bytes += len(piece)
        self._is_news = True
        if self._news is not None:
            self._news.set()

    def end_body(self) -> None:
        """The request's body is complete."""
        self.more_body = False
        self._is_news = True
        if self._news is not None:
            self._news.set()

    def lose_client(self) -> None:
        """The connection has ended."""
        if self.response_complete or self.disconnected:
            return
        self.disconnected = True
        if self._news is not None:
            self._news.set()
        if self._on_disconnect is not None:
            self._on_disconnect()

    # --- ASGI -------------------------------------------------------------------------------------

    async def receive(self) -> _Message:
        """The next message of the request."""
        if self.waiting_for_100_continue:
            self._ask_for_body()
        while not (self._is_news or self.disconnected or self.response_complete):
            self.flow.resume_reading()
            if self._news is None:
                self._news = asyncio.Event()
            self._news.clear()
            await self._news.wait()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        self.flow.resume_reading()
        self._is_news = False
        return {"type": "http.request", "body": self._take_body(), "more_body": self.more_body}

    async def send(self, message: _Message) -> None:
        """Write a message of the response, when the client has read enough of those before it."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if self.response_complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            self.waiting_for_100_continue = False
            self._start(message["status"], message.get("headers", ()))
        elif kind != "http.response.body":
            raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{kind}'.")
        else:
            more_body = message.get("more_body", False)
            self._write(message.get("body", b""), more_body=more_body)
            if not more_body and self._news is not None:
                self._news.set()  # the end of the response is news, too

    # --- beside ASGI ------------------------------------------------------------------------------

    def whole_body(self) -> bytes | None:
        """`WholeBody`: the request's body if all of it has come; None: receive its messages."""
        if self.more_body or self.disconnected or not self._is_news:
            return None
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._is_news = False
        return self._take_body()

    def write(self, chunk: bytes) -> bool:
        """`WriteNow`: write a piece of the body at once, after the response has been started.

        Returns whether more may be written now. False: the client reads too slowly, so `send` the
        next message, which waits for it; an empty body will do.

        Raises:
            RuntimeError: The response has not been started, or is complete or longer than declared.
        """
        if not self.disconnected:
            if not self.response_started or self.response_complete:
                raise RuntimeError("a body is written between a response's start and its end")
            self._write(chunk, more_body=True)
        return not self.flow.write_paused

    def on_disconnect(self, call: Callable[[], None] | None) -> None:
        """`OnDisconnect`: call a function once if the client leaves before the response's end.

        There is one at a time. None: call nothing any more. It is never called from within this.
        """
        self._on_disconnect = call
        if self.disconnected and call is not None:
            self._connection.loop.call_soon(self._call_late)

    def _call_late(self) -> None:
        if self._on_disconnect is not None:
            self._on_disconnect()

    def _ask_for_body(self) -> None:
        self.waiting_for_100_continue = False
        if not self.transport.is_closing():
            self.transport.write(_CONTINUE)

    def _take_body(self) -> bytes:
        pieces = self._pieces
        self._pieces, self.pending_bytes = [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
