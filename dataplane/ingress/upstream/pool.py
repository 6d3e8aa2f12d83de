"""The connections to engine replicas: those in use, and those kept for the next request."""

from __future__ import annotations

import asyncio
import contextlib

from dataplane.ingress.upstream.connection import Connection

_IDLE_CHECKS = 4
"""Looks at an idle connection within the time for which it is kept."""
_SILENCE_CHECKS = 8
"""Looks at a connection in use within the time for which its engine may be silent."""
_CLOSE_TIMEOUT_S = 1.0
"""Longest wait for the event loop to close aborted connections, which takes it one turn."""


class ConnectionPool:
    """Admission bounds how many connections are in use, and so how many there are.

    One timer looks at all of them. So neither a request nor a piece of an answer has one.
    """

    def __init__(self, *, keepalive_s: float, silence_s: float) -> None:
        """
        Args:
            keepalive_s: How long an idle connection is kept.
            silence_s: How long an engine may be silent.
        """
        self._keepalive_s = keepalive_s
        self._silence_s = silence_s
        self._check_interval_s = min(keepalive_s / _IDLE_CHECKS, silence_s / _SILENCE_CHECKS)
        self._open: set[Connection] = set()
        self._idle: dict[str, dict[Connection, None]] = {}
        """By endpoint, in the order in which they became idle. No endpoint has none."""
        self._timer: asyncio.TimerHandle | None = None
        """Runs while there are connections."""
        self._none_open = asyncio.Event()
        self.is_closed = False

    def add(self, connection: Connection) -> None:
        """Watch over a new connection, for which a request waits."""
        if connection.is_lost:
            return
        self._open.add(connection)
        if self.is_closed:
            connection.abort()
        if self._timer is None:
            self._start_timer()

    def take(self, endpoint: str, tls: object) -> Connection | None:
        """The connection that became idle last, because its engine is the least likely to close it.

        Args:
            endpoint: URL of the endpoint.
            tls: What connections are verified with now; None without TLS. Connections that were
                verified with something else are closed.
        """
        oldest_use = asyncio.get_running_loop().time() - self._keepalive_s
        while (idle := self._idle.get(endpoint)) is not None:
            connection = next(reversed(idle))
            self._forget_idle(connection)
            since, connection.idle_since = connection.idle_since, None
            if connection.is_open() and connection.tls is tls and since is not None and since > oldest_use:
                return connection
            connection.close()
        return None

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request if it can have one. Otherwise close it, which
        stops the engine's work on this one."""
        if self.is_closed or not connection.can_be_kept():
            connection.abort()
            return
        connection.become_idle()
        self._idle.setdefault(connection.endpoint, {})[connection] = None

    def on_lost(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._forget_idle(connection)
        self._open.discard(connection)
        if not self._open:
            self._none_open.set()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    async def aclose(self) -> None:
        """Close all connections."""
        self.is_closed = True
        self._none_open.clear()
        for connection in tuple(self._open):
            connection.abort()
        if self._open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await self._none_open.wait()

    def _start_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._check_interval_s, self._check)

    def _check(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in tuple(self._open):
            if connection.idle_since is None:
                connection.check_silence(now, self._silence_s)
            elif now - connection.idle_since >= self._keepalive_s:
                self._forget_idle(connection)
                connection.close()
        self._start_timer()

    def _forget_idle(self, connection: Connection) -> None:
        idle = self._idle.get(connection.endpoint)
        if idle is not None and connection in idle:
            del idle[connection]
            if not idle:
                del self._idle[connection.endpoint]
