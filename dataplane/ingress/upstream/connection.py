"""One connection to an engine replica: what is sent and read on it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

from dataplane.ingress.upstream.answer_parser import AnswerParser
from dataplane.ingress.upstream.failures import UpstreamFailed, UpstreamSilent

Write = Callable[[bytes], bool]
"""Takes a piece of an answer. False: the caller should wait before the next one."""

_WHOLE_WRITE_BYTES_MAX = 64 * 1024
"""Larger bodies are not copied behind the head, but sent in slices."""
_SLICE_BYTES = 256 * 1024
"""Of a large body, no more than a slice and asyncio's 64 KiB wait in the transport; with TLS, a
slice and 512 KiB."""
_HELD_BYTES_MAX = 64 * 1024
"""Bytes of an answer that may wait for a slow reader, before no more is read. One read may exceed
it, by at most 256 KiB."""
_HOST_PROBES = 3
"""Keepalive probes on an idle connection before its host is given up."""


class Connection(asyncio.Protocol):
    """A connection that carries one request at a time. One task at a time uses it."""

    def __init__(
        self,
        *,
        endpoint: str,
        tls: object,
        host_timeout_s: int,
        on_lost: Callable[[Connection], None],
    ) -> None:
        """
        Args:
            endpoint: URL of the endpoint.
            tls: What its certificate was verified with; None without TLS.
            host_timeout_s: How long its host may acknowledge nothing.
            on_lost: Called when it has ended.
        """
        self.endpoint = endpoint
        self.tls = tls
        self.answer = AnswerParser()
        """Of the request in progress, or of the last one."""
        self.is_lost = False
        """It has ended."""
        self.idle_since: float | None = None
        """On the event loop's clock. None: it has a request."""
        self._host_timeout_s = host_timeout_s
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        """What the task waits for. It is done when anything may have changed."""
        self._sink: Write | None = None
        """Gets the body as it comes. None: the body is held."""
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._reading_paused = False
        self._writing_paused = False
        self._cut_short = False
        """The engine answered before it had the whole body."""
        self._failure: Exception | None = None
        self._heard = False
        """Something came, or could be sent, since the last check."""
        self._heard_at = 0.0
        """When a check last found that, on the event loop's clock."""

    # --- the request's task -----------------------------------------------------------------------

    async def send(self, head: bytes, body: Sequence[bytes | memoryview], body_bytes: int) -> None:
        """Send a request whose body has these parts, `body_bytes` together.

        Returns early if the engine answers before it has all of the body.

        Raises:
            UpstreamFailed: Nothing was sent, because the connection has ended.
        """
        if self._transport.is_closing():
            raise UpstreamFailed("the connection has ended", refused=True)
        self.answer.begin()
        self._heard = True
        if body_bytes <= _WHOLE_WRITE_BYTES_MAX:
            self._transport.write(b"".join((head, *body)))
            return
        self._transport.write(head)
        for part in body:
            await self._send_in_slices(memoryview(part))
            if self._cut_short:
                return

    async def head(self) -> None:
        """Wait for the head of the answer.

        Raises:
            UpstreamSilent: Nothing came for too long.
            UpstreamFailed: There is none.
        """
        while not self.answer.status:
            if self.answer.ended:
                raise self._why()
            await self._wait()

    async def more(self) -> bytes:
        """What has come of the body since, at least one byte; empty at its end.

        Raises:
            UpstreamSilent: Nothing came for too long.
            UpstreamFailed: The answer broke off.
        """
        while not self._held:
            if self.answer.ended:
                if self.answer.whole:
                    return b""
                raise self._why()
            await self._wait()
        return self._take()

    async def pass_on(self, write: Write) -> bool:
        """Have the body written as it comes, without a turn of this task for each piece.

        Returns whether that was all of it. If not, `write` has returned False: wait until it may
        be called again, and then call this again.

        Raises:
            UpstreamSilent: Nothing came for too long.
            UpstreamFailed: The answer broke off.
        """
        if self._held and not write(self._take()):
            return False
        if not self.answer.ended:
            self._sink = write
            try:
                await self._wait()
            finally:
                self._sink = None
        if self._held or not self.answer.ended:
            return False
        if not self.answer.whole:
            raise self._why()
        return True

    def can_be_kept(self) -> bool:
        """Whether another request may be sent after this one."""
        is_sent = not self._cut_short and not self._transport.get_write_buffer_size()
        return is_sent and self.answer.keeps_alive and not self._transport.is_closing()

    def become_idle(self) -> None:
        """The task has what it needs, and the connection is kept."""
        self.idle_since = self._loop.time()
        if self._held:
            self._take()

    # --- whoever owns it --------------------------------------------------------------------------

    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def check_silence(self, now: float, silence_s: float) -> None:
        """Fail the request if nothing has come for so long.

        A piece of an answer only sets a flag. So the silence may be longer by the time between two
        checks.
        """
        # What waits for a slow caller is not the engine's silence.
        if self._heard or self._held or self._reading_paused:
            self._heard, self._heard_at = False, now
        elif now - self._heard_at >= silence_s and not self.answer.ended:
            self._fail(UpstreamSilent())

    def close(self) -> None:
        """Close an idle connection."""
        self._transport.close()

    def abort(self) -> None:
        """Close it at once, which stops the engine's work on the request."""
        self._transport.abort()

    # --- the event loop ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as asyncio calls it
        self._transport = transport
        _give_up_lost_hosts(transport.get_extra_info("socket"), self._host_timeout_s)

    def data_received(self, data: bytes) -> None:
        if self.answer.ended:  # nobody has asked for it, so it is not the answer to the next request
            self._transport.abort()
            return
        answer = self.answer
        self._heard = True
        body = answer.feed(data)
        if body:
            if self._sink is None:
                self._hold(body)
            else:
                try:
                    if self._sink(body) and not answer.ended:
                        return
                except Exception as error:  # it belongs to the task, not to the event loop
                    self._fail(error)
                self._sink = None
        elif not answer.ended and (self._sink is not None or not answer.status):
            return
        if answer.fault:
            self._transport.abort()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.answer.feed_eof()
        elif not self.answer.ended:
            self._fail(UpstreamFailed(type(exc).__name__, refused=False))
        self.is_lost = True
        self._on_lost(self)
        self._wake()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake()

    # --- between them -----------------------------------------------------------------------------

    async def _send_in_slices(self, rest: memoryview) -> None:
        while rest:
            if self._is_answered() or self._transport.is_closing():
                self._cut_short = True
                return
            self._transport.write(rest[:_SLICE_BYTES])
            rest = rest[_SLICE_BYTES:]
            await asyncio.sleep(0)  # others get their turn, also while the engine takes all at once
            while self._writing_paused and not self._is_answered():
                await self._wait()
            self._heard = True

    def _is_answered(self) -> bool:
        return self.answer.ended or bool(self._held)

    def _wait(self) -> asyncio.Future[None]:
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _hold(self, body: bytes) -> None:
        self._held.append(body)
        self._held_bytes += len(body)
        if self._held_bytes > _HELD_BYTES_MAX and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _take(self) -> bytes:
        held = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        return held

    def _fail(self, failure: Exception) -> None:
        self._failure = failure
        self.answer.ended, self.answer.whole = True, False
        self._transport.abort()
        self._wake()

    def _why(self) -> Exception:
        return self._failure or UpstreamFailed(self.answer.fault, refused=False)


def _give_up_lost_hosts(connected: socket.socket, host_timeout_s: int) -> None:
    """Make the connection fail once the other host is silent for `host_timeout_s`.

    A lost host does not close its connections. TCP alone would wait for ever, or a quarter of an
    hour after it has sent something. The host of a busy engine is not silent: it acknowledges.
    """
    probe_s = max(1, host_timeout_s // _HOST_PROBES)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, probe_s)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe_s)
    # Bounds how long sent data stays unacknowledged, and replaces the number of probes: tcp(7).
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, host_timeout_s * 1000)
