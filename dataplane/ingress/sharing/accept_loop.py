"""Accepts connections from one listening socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog

_AT_ONCE = 32
"""Connections in one turn of the event loop; requests in progress get theirs in between."""
_PAUSE_S = 0.5
"""How long nothing is accepted when the process has too many open files."""

_log = structlog.get_logger("dataplane.ingress.sharing")


class AcceptLoop:
    """One listening socket in the event loop."""

    def __init__(self, listener: socket.socket, on_connection: Callable[[socket.socket], None]) -> None:
        """
        Args:
            listener: It does not block.
            on_connection: Called with each connection, which does not block either.
        """
        self.listener = listener
        self._on_connection = on_connection
        self._resumes: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._resumes = None
        asyncio.get_running_loop().add_reader(self.listener.fileno(), self.accept_waiting)

    def stop(self) -> None:
        """Accept nothing more. The listener stays open."""
        if self._resumes is not None:
            self._resumes.cancel()
            self._resumes = None
        else:
            asyncio.get_running_loop().remove_reader(self.listener.fileno())

    def accept_waiting(self) -> int:
        """Accept what waits, up to a bound. Returns how many."""
        for count in range(_AT_ONCE):
            try:
                connection, _ = self.listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return count
            except OSError as error:
                self._pause(error)
                return count
            connection.setblocking(False)
            self._on_connection(connection)
        return _AT_ONCE

    def _pause(self, error: OSError) -> None:
        # The kernel would wake the event loop again at once.
        _log.error("connections_not_accepted", error=str(error), pause_s=_PAUSE_S)
        if self._resumes is None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self.listener.fileno())
            self._resumes = loop.call_later(_PAUSE_S, self.start)
