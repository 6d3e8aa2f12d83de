"""uvicorn's server, sharing listeners and connections with the other replicas of the node."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import uvicorn

from dataplane.ingress.sharing.accept_loop import AcceptLoop
from dataplane.ingress.sharing.placement import Budget
from dataplane.ingress.sharing.siblings import Siblings

_HOPS_MAX = 3
"""How often a connection moves: more than once, if several chose the same replica together."""
_SETTLE_S = 1.0
"""How long a replica that stops waits for what is on its way."""
_SETTLE_POLL_S = 0.005
FIRST_REQUEST_S = 0.1
"""How long a replica that stops answers connections that it has accepted just before. Their first
requests are on their way, and idle connections are closed next."""
_ACCEPTS_AT_END = 64
"""Turns in which a replica that stops alone accepts what has come to its listener."""


_EVEN_OUT_S = 1.0
"""How often a replica looks whether it has too many connections, as after the start of another."""
_EVEN_OUT_MAX = 16
"""How many it gives up at a time: each costs its client a new connection."""


class OpenConnections(set[Any]):
    """uvicorn's set of open connections, and those that are not open yet, as in a TLS handshake."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        super().__init__()
        self.opening: set[object] = set()
        self._on_change = on_change

    @property
    def total(self) -> int:
        """All of them."""
        return len(self) + len(self.opening)

    def add(self, protocol: object) -> None:
        super().add(protocol)
        self.opening.discard(protocol)
        self._on_change()

    def discard(self, protocol: object) -> None:
        super().discard(protocol)
        self._on_change()


class SharedServer(uvicorn.Server):
    """Serves on a port that several processes share. `join` it first, then `serve`."""

    def __init__(
        self, config: uvicorn.Config, *, place: str, listen: Callable[[], socket.socket], max_connections: int
    ) -> None:
        """
        Args:
            config: Of uvicorn.
            place: From `place_of`: what the processes that share the port have in common.
            listen: Listens on the port, beside others.
            max_connections: Open connections that this process may have.
        """
        super().__init__(config)
        self.handed_over = 0
        """Connections that went to another replica."""
        self.taken_back = 0
        """Of these, those that came back because it was gone, late or full."""
        self._listen = listen
        self._max_connections = max_connections
        self._siblings = Siblings(place, self)
        self._budget = Budget(time.monotonic)
        self._connections = OpenConnections(self._show)
        self._opening: set[asyncio.Task[None]] = set()
        self._loops: dict[int, AcceptLoop] = {}
        """By the number of the socket, which all files of it have."""
        self._leaving: set[Any] = set()
        """Connections that end with the answer in progress."""
        self._evens_out: asyncio.TimerHandle | None = None
        self._serves = False
        self._stopping = False

    @property
    def connections(self) -> int:
        """Open connections."""
        return self._connections.total

    @property
    def siblings(self) -> int:
        """Other replicas of the node that may be handed connections."""
        return self._siblings.count

    async def join(self) -> None:
        """Meet the other replicas, and listen. Connections wait until `serve`.

        Raises:
            OSError: The port is not free.
        """
        await self._siblings.join()
        if not self._loops:
            listener = self._listen()
            listener.setblocking(False)
            self.adopt(listener)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        self.servers = []
        self.server_state.connections = self._connections
        self._serves = True
        self._show()
        for loop in self._loops.values():
            loop.start()
        self._even_out()
        self.started = True

    def stop_accepting(self) -> None:
        """Give the listeners to another replica of the node. Open connections stay."""
        self._stopping = True
        if self._evens_out is not None:
            self._evens_out.cancel()
        self._show()
        for loop in self._loops.values():
            self._siblings.give(loop.listener)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if not self._stopping:
            self.stop_accepting()
        await self._settle()
        for loop in tuple(self._loops.values()):  # no other replica has taken them
            for _ in range(_ACCEPTS_AT_END):
                if not loop.accept_waiting():
                    break
            self._close(loop)
        await self._settle()
        self._siblings.leave()  # what is still on its way comes back
        await asyncio.sleep(FIRST_REQUEST_S)
        if self._opening:
            _, late = await asyncio.wait(self._opening, timeout=_SETTLE_S)
            for task in late:
                task.cancel()
        await super().shutdown()

    async def _settle(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                while not self._siblings.is_settled:  # noqa: ASYNC110  # there is no event for all of it
                    await asyncio.sleep(_SETTLE_POLL_S)

    # --- as the receiver of its siblings ----------------------------------------------------------

    def take(self, connection: socket.socket, hops: int) -> None:
        self._place(connection, hops)

    def take_back(self, connection: socket.socket) -> None:
        self.taken_back += 1
        self._open(connection)

    def adopt(self, listener: socket.socket) -> None:
        number = os.fstat(listener.fileno()).st_ino
        if number in self._loops:
            listener.close()
            return
        loop = AcceptLoop(listener, lambda connection: self._place(connection, 0))
        self._loops[number] = loop
        if self._serves:
            loop.start()

    def given(self, listener: socket.socket, *, taken: bool) -> None:
        for loop in tuple(self._loops.values()):
            if taken and loop.listener is listener:
                self._close(loop)

    def spare_listener(self) -> socket.socket | None:
        return next(reversed(self._loops.values())).listener if len(self._loops) > 1 else None

    # --- connections ------------------------------------------------------------------------------

    def _place(self, connection: socket.socket, hops: int) -> None:
        if self._stopping or (hops < _HOPS_MAX and self._budget.has_some):
            own = None if self._stopping else self.connections + 1
            if self._siblings.hand(connection, hops + 1, own=own):
                self.handed_over += 1
                self._budget.spend()
                return
        self._open(connection)

    def _open(self, connection: socket.socket) -> None:
        if len(self._connections.opening) >= self._max_connections:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn does
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
        )
        self._connections.opening.add(protocol)
        self._show()
        task = loop.create_task(self._attach(protocol, connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _attach(self, protocol: asyncio.Protocol, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: protocol, connection, ssl=self.config.ssl)
        except OSError:  # it is gone, or its TLS handshake failed or took too long
            connection.close()
        finally:
            self._connections.opening.discard(protocol)
            self._show()

    def _even_out(self) -> None:
        """End connections that other replicas should have: their next answer says so.

        A client then connects anew, and loses nothing. Idle connections stay, because a request may
        be on its way, and streams that have begun, because their head has been sent.
        """
        self._leaving.intersection_update(self._connections)
        surplus = self._siblings.surplus(self.connections - len(self._leaving))
        if surplus:
            self._end_some(min(surplus, _EVEN_OUT_MAX))
        self._evens_out = asyncio.get_running_loop().call_later(_EVEN_OUT_S, self._even_out)

    def _end_some(self, count: int) -> None:
        able = (one for one in self._connections if one not in self._leaving and _can_end(one))
        for connection in itertools.islice(able, count):
            connection.cycle.keep_alive = False
            self._leaving.add(connection)

    def _close(self, loop: AcceptLoop) -> None:
        self._loops = {number: other for number, other in self._loops.items() if other is not loop}
        if self._serves:
            loop.stop()
        loop.listener.close()

    def _show(self) -> None:
        room = self._max_connections if self._serves and not self._stopping else 0
        self._siblings.show(self.connections, room)


def _can_end(connection: Any) -> bool:
    cycle = connection.cycle
    return cycle is not None and cycle.keep_alive and not cycle.response_started
