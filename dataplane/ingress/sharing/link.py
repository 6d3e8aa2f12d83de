"""To another replica of the node: hands it connections, and takes back what it does not take.

A handed connection stays open here until the other replica says that it has it. Whoever reads its
claim, an eventfd that can be read once, has it: so a replica that was late cannot begin with a
connection that was taken back, and two never answer on the same one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass
from typing import Protocol

from dataplane.ingress.sharing import channel as channels
from dataplane.ingress.sharing.board import Board
from dataplane.ingress.sharing.channel import ChannelClosed, Kind, Message

CLAIM_S = 0.5
"""How long a replica has for taking a connection before it is taken back. Its event loop runs many
times in between, unless it hangs."""
_HANDED_MAX = 64
"""Connections on their way to one replica. The answers to so many fit into a socket."""
_MESSAGES_AT_ONCE = 64


class Owner(Protocol):
    """Who hands over."""

    def take_back(self, connection: socket.socket) -> None:
        """The connection was not taken, and has to be answered here."""

    def adopt(self, listener: socket.socket) -> None:
        """The other replica has spared a listener."""

    def given(self, listener: socket.socket, *, taken: bool) -> None:
        """The other replica has taken a listener, or has not."""

    def lost(self, link: Link) -> None:
        """The link has ended."""

    def greeted(self) -> None:
        """The other replica has answered."""


@dataclass(slots=True)
class _Handed:
    connection: socket.socket
    claim: int
    timer: asyncio.TimerHandle


class Link:
    """One link. It ends by `close`, or when the other replica is gone."""

    def __init__(self, slot: int, channel: socket.socket, own: Board, owner: Owner) -> None:
        """
        Args:
            slot: Of the other replica.
            channel: Connected to it.
            own: The board of this replica.
            owner: Is told what happens.
        """
        self.slot = slot
        self.board: Board | None = None
        """Of the other replica. None: it has not answered yet."""
        self._channel = channel
        self._own = own
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._handed: dict[int, _Handed] = {}
        self._listeners: dict[int, socket.socket] = {}

    def open(self, own_slot: int, *, wants_listener: bool) -> bool:
        """Introduce this replica. Returns False if the other one does not listen any more."""
        self._loop.add_reader(self._channel.fileno(), self._read)
        return self._send(Message(kind=Kind.HELLO, slot=own_slot, number=int(wants_listener)))

    def hand(self, connection: socket.socket, hops: int) -> bool:
        """Hand a connection over. Returns False if it was not sent, and stays.

        Args:
            connection: Nothing was read from it.
            hops: How many replicas have had it, with this one.
        """
        if len(self._handed) >= _HANDED_MAX:
            return False
        try:
            claim = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            return False
        number = self._next_number()
        files = (connection.fileno(), claim)
        if not self._send(Message(kind=Kind.CONNECTION, number=number, hops=hops, files=files)):
            os.close(claim)
            return False
        timer = self._loop.call_later(CLAIM_S, self._not_taken_in_time, number)
        self._handed[number] = _Handed(connection, claim, timer)
        self._own.add_sent(self.slot, 1)
        return True

    def give(self, listener: socket.socket) -> bool:
        """Give a listener away. It stays open here until it is taken. Returns False if not sent."""
        number = self._next_number()
        if not self._send(Message(kind=Kind.LISTENER, number=number, files=(listener.fileno(),))):
            return False
        self._listeners[number] = listener
        return True

    @property
    def is_settled(self) -> bool:
        """Whether nothing is on its way."""
        return not (self._handed or self._listeners)

    def close(self, *, gone: bool = False) -> None:
        """End the link, and take back what is on its way.

        Args:
            gone: The other replica has closed it. It has then taken nothing but what it said it
                had: it says so before it reads a byte of a connection.
        """
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        handed, self._handed = self._handed, {}
        listeners, self._listeners = self._listeners, {}
        self._own.forget_sent(self.slot)
        for one in handed.values():
            one.timer.cancel()
            if _claimed(one.claim) or gone:
                self._owner.take_back(one.connection)
            else:
                one.connection.close()
            os.close(one.claim)
        for listener in listeners.values():
            self._owner.given(listener, taken=False)
        if self.board is not None:
            self.board.close()
            self.board = None

    def _next_number(self) -> int:
        self._number = (self._number + 1) % 2**32
        return self._number

    def _send(self, message: Message) -> bool:
        try:
            channels.send(self._channel, message)
        except OSError:
            return False
        return True

    def _read(self) -> None:
        for _ in range(_MESSAGES_AT_ONCE):
            try:
                message = channels.receive(self._channel)
            except ChannelClosed as end:
                self.close(gone=end.gone)
                self._owner.lost(self)
                return
            if message is None:
                return
            self._take(message)

    def _take(self, message: Message) -> None:
        if message.kind is Kind.GREETING and self.board is None and message.files:
            self._greeted(message.files)
        elif message.kind in (Kind.TAKEN, Kind.REFUSED):
            self._answered(message.number, taken=message.kind is Kind.TAKEN)
        else:
            channels.close_files(message.files)

    def _greeted(self, files: tuple[int, ...]) -> None:
        board, *listeners = files
        with contextlib.suppress(OSError, ValueError):
            self.board = Board.of_other(board)
        os.close(board)
        for listener in listeners:
            self._owner.adopt(socket.socket(fileno=listener))
            self._send(Message(kind=Kind.TAKEN))
        self._owner.greeted()

    def _answered(self, number: int, *, taken: bool) -> None:
        listener = self._listeners.pop(number, None)
        if listener is not None:
            self._owner.given(listener, taken=taken)
        handed = self._handed.pop(number, None)
        if handed is None:
            return  # it was taken back
        handed.timer.cancel()
        os.close(handed.claim)
        if taken:
            handed.connection.close()
        else:
            self._take_back(handed)

    def _not_taken_in_time(self, number: int) -> None:
        if _claimed(self._handed[number].claim):
            handed = self._handed.pop(number)
            os.close(handed.claim)
            self._take_back(handed)
        # Otherwise the other replica has it, and will say so or end.

    def _take_back(self, handed: _Handed) -> None:
        self._own.add_sent(self.slot, -1)
        self._owner.take_back(handed.connection)


def _claimed(claim: int) -> bool:
    try:
        os.eventfd_read(claim)
    except BlockingIOError:
        return False
    return True
