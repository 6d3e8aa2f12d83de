"""Connections of an attacker: plain sockets that never wait for the other end."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable

ATTACK_S = float(os.environ.get("BROADSHEET_TEST_ATTACK_S", "0.5"))
"""How long an attack goes on that has no end of its own."""
PAUSE_S = 0.01
"""Between two steps of an attack. It leaves processor time to the server and the neighbour."""

_CLOSED_BY_OTHERS = (errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)


class Connection:
    """One TCP connection. What the kernel does not take at once is sent by `Attacker.rest`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._unsent = b""
        self.sent_bytes = 0
        self.closed = False
        """Whether it was closed, by either end, as far as sending has shown."""

    def send(self, data: bytes) -> bool:
        """Send without waiting. Returns whether the kernel took all of it."""
        self._unsent += data
        return self.flush()

    def flush(self) -> bool:
        """Send what is left. Returns whether nothing is left."""
        if self._unsent and not self.closed:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in _CLOSED_BY_OTHERS:
                    raise
                self.closed = True
                return True
            self.sent_bytes += sent
            self._unsent = self._unsent[sent:]
        return self.closed or not self._unsent

    def read(self) -> bytes:
        """What has arrived; empty: nothing, or the other end has closed."""
        try:
            data = self._socket.recv(1 << 20)
        except BlockingIOError:
            return b""
        except OSError:
            self.closed = True
            return b""
        self.closed = self.closed or not data
        return data

    def reset(self) -> None:
        """Close with a RST in place of a FIN."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.closed = True
        self._socket.close()


class Attacker:
    """Opens connections to one listener, and closes them at its end."""

    def __init__(self, host: str, port: int, *, key: str = "") -> None:
        """
        Args:
            host: Where to connect to.
            port: Its port.
            key: A valid API key, for attacks by a caller who has one.
        """
        self.key = key
        self._address = (host, port)
        self._connections: list[Connection] = []
        self.silent = False
        """Whether it is meant to send nothing."""
        self.opened = 0
        self.sent_bytes = 0

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            self.sent_bytes += connection.sent_bytes
            connection.close()
        self._connections.clear()

    def open(self, *, source: str = "", receive_buffer_bytes: int = 0) -> Connection:
        """Connect.

        Args:
            source: The address to connect from. Empty: the kernel's choice.
            receive_buffer_bytes: Size of the kernel's buffer for what the server sends.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        if source:
            sock.bind((source, 0))
        sock.connect_ex(self._address)
        connection = Connection(sock)
        self._connections.append(connection)
        self.opened += 1
        return connection

    async def open_many(
        self, count: int, first: bytes = b"", *, source: str = "", at_once: int = 20
    ) -> list[Connection]:
        """Open connections, some at a time, and send `first` on each."""
        opened = []
        for number in range(count):
            connection = self.open(source=source)
            connection.send(first)
            opened.append(connection)
            if number % at_once == at_once - 1:
                await self.rest(PAUSE_S)
        return opened

    def drop_closed(self) -> None:
        """Forget connections that are closed, for attacks that open many."""
        for connection in self._connections:
            if connection.closed:
                self.sent_bytes += connection.sent_bytes
                connection.close()
        self._connections = [connection for connection in self._connections if not connection.closed]

    async def rest(self, seconds: float) -> None:
        """Wait, and send meanwhile what the kernel has not taken yet."""
        ends_at = time.monotonic() + seconds
        while True:
            for connection in self._connections:
                connection.flush()
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                return
            await asyncio.sleep(min(left_s, PAUSE_S))

    async def steps(self, pause_s: float = PAUSE_S) -> AsyncIterator[int]:
        """Count steps for as long as an attack goes on, with a pause after each."""
        ends_at = time.monotonic() + ATTACK_S
        number = 0
        while time.monotonic() < ends_at:
            yield number
            number += 1
            await self.rest(pause_s)


Attack = Callable[[Attacker], Awaitable[None]]
"""Returns when it is over. Its connections are closed afterwards."""
