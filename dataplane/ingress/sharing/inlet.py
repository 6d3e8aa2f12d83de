"""From another replica of the node: takes the connections that it hands over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Protocol

from dataplane.ingress.sharing import channel as channels
from dataplane.ingress.sharing.channel import ChannelClosed, Kind, Message

_MESSAGES_AT_ONCE = 64


class Host(Protocol):
    """Who takes connections."""

    @property
    def board_fd(self) -> int:
        """The board of this replica."""

    @property
    def takes(self) -> bool:
        """Whether connections are taken."""

    def said_hello(self, inlet: Inlet) -> None:
        """The other replica has said which slot it has."""

    def take(self, inlet: Inlet, connection: socket.socket, hops: int) -> None:
        """The connection belongs to this replica."""

    def adopt(self, listener: socket.socket) -> None:
        """The listener belongs to this replica."""

    def offer(self, inlet: Inlet) -> socket.socket | None:
        """A listener that can be spared, and is not offered to another replica."""

    def offer_ended(self, inlet: Inlet, *, taken: bool) -> None:
        """The listener that was offered has a new owner, or has not."""

    def ended(self, inlet: Inlet) -> None:
        """The other replica is gone."""


class Inlet:
    """One connection from another replica."""

    def __init__(self, channel: socket.socket, host: Host) -> None:
        self.slot: int | None = None
        """Of the other replica. None: it has not said so yet."""
        self._channel = channel
        self._host = host

    def open(self) -> None:
        """Read what comes, from now on."""
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._read)

    def close(self) -> None:
        """End it. What the other replica has sent, and was not taken, stays there."""
        asyncio.get_running_loop().remove_reader(self._channel.fileno())
        self._channel.close()
        self._host.offer_ended(self, taken=False)

    def _read(self) -> None:
        for _ in range(_MESSAGES_AT_ONCE):
            try:
                message = channels.receive(self._channel)
            except ChannelClosed:
                self.close()
                self._host.ended(self)
                return
            if message is None:
                return
            self._take(message)

    def _take(self, message: Message) -> None:
        match message.kind:
            case Kind.HELLO:
                self._greet(message)
            case Kind.CONNECTION:
                self._take_connection(message)
            case Kind.LISTENER if message.files and self._host.takes:
                self._host.adopt(socket.socket(fileno=message.files[0]))
                self._answer(Kind.TAKEN, message.number)
            case Kind.TAKEN:
                self._host.offer_ended(self, taken=True)
            case _:
                channels.close_files(message.files)
                self._answer(Kind.REFUSED, message.number)

    def _greet(self, message: Message) -> None:
        self.slot = message.slot
        spare = self._host.offer(self) if message.number else None
        files = (self._host.board_fd,) if spare is None else (self._host.board_fd, spare.fileno())
        with contextlib.suppress(OSError):
            channels.send(self._channel, Message(kind=Kind.GREETING, files=files))
        self._host.said_hello(self)

    def _take_connection(self, message: Message) -> None:
        if not (message.files and self._host.takes and self._claims(message.files[1])):
            channels.close_files(message.files)
            self._answer(Kind.REFUSED, message.number)
            return
        connection, claim = message.files
        os.close(claim)
        # Before a byte is read: if this replica ends without saying so, the other one answers.
        self._answer(Kind.TAKEN, message.number)
        taken = socket.socket(fileno=connection)
        taken.setblocking(False)
        self._host.take(self, taken, message.hops)

    def _claims(self, claim: int) -> bool:
        try:
            os.eventfd_read(claim)
        except OSError:  # it was taken back
            return False
        return True

    def _answer(self, kind: Kind, number: int) -> None:
        with contextlib.suppress(OSError):  # it is gone
            channels.send(self._channel, Message(kind=kind, number=number))
