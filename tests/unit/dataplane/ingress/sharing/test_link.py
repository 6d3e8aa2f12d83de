"""A connection that is handed over is answered by exactly one replica."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest

from dataplane.ingress.sharing import channel as channels
from dataplane.ingress.sharing import link as links
from dataplane.ingress.sharing.board import Board
from dataplane.ingress.sharing.channel import Kind, Message
from dataplane.ingress.sharing.link import Link

SLOT = 3


class World:
    """A link, whose other end is the test, and its owner, which is the test as well."""

    def __init__(self) -> None:
        self.board = Board.create()
        ours, self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, self.other):
            end.setblocking(False)
        self.link = Link(SLOT, ours, self.board, self)
        self.link.open(0, wants_listener=True)
        assert self.received().kind is Kind.HELLO
        self.back: list[socket.socket] = []
        self.given_away: list[tuple[socket.socket, bool]] = []
        self.adopted: list[socket.socket] = []
        self.is_lost = False
        self.sockets: list[socket.socket] = []

    def received(self) -> Message:
        message = channels.receive(self.other)
        assert message is not None
        return message

    def connection(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.sockets += [ours, theirs]
        return ours

    async def answer(self, kind: Kind, number: int, files: tuple[int, ...] = ()) -> None:
        channels.send(self.other, Message(kind=kind, number=number, files=files))
        await asyncio.sleep(0.01)

    def take_back(self, connection: socket.socket) -> None:
        self.back.append(connection)

    def adopt(self, listener: socket.socket) -> None:
        self.adopted.append(listener)
        self.sockets.append(listener)

    def given(self, listener: socket.socket, *, taken: bool) -> None:
        self.given_away.append((listener, taken))

    def lost(self, link: Link) -> None:
        self.is_lost = True

    def greeted(self) -> None:
        pass


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(links, "CLAIM_S", 0.05)
    world = World()
    yield world
    if not world.is_lost:
        world.link.close()
    world.other.close()
    world.board.close()
    for one in world.sockets:
        one.close()


async def test_a_taken_connection_is_closed_here_and_counts_as_sent(world: World) -> None:
    connection = world.connection()
    assert world.link.hand(connection, 1)
    message = world.received()
    assert (message.kind, message.hops) == (Kind.CONNECTION, 1)
    assert os.eventfd_read(message.files[1]) == 1
    await world.answer(Kind.TAKEN, message.number)
    channels.close_files(message.files)
    assert (connection.fileno(), world.back, world.board.sent(SLOT)) == (-1, [], 1)
    assert world.link.is_settled


async def test_a_refused_connection_comes_back_at_once(world: World) -> None:
    connection = world.connection()
    world.link.hand(connection, 1)
    message = world.received()
    channels.close_files(message.files)
    await world.answer(Kind.REFUSED, message.number)
    assert (world.back, world.board.sent(SLOT)) == ([connection], 0)


async def test_a_late_replica_cannot_claim_what_was_taken_back(world: World) -> None:
    connection = world.connection()
    world.link.hand(connection, 1)
    await asyncio.sleep(0.1)
    assert world.back == [connection]
    message = world.received()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(message.files[1])
    await world.answer(Kind.TAKEN, message.number)  # it may say what it likes
    assert connection.fileno() != -1
    channels.close_files(message.files)


async def test_a_claimed_connection_is_waited_for_however_late_the_answer_is(world: World) -> None:
    connection = world.connection()
    world.link.hand(connection, 1)
    message = world.received()
    os.eventfd_read(message.files[1])
    await asyncio.sleep(0.1)
    assert world.back == []
    await world.answer(Kind.TAKEN, message.number)
    assert (connection.fileno(), world.back) == (-1, [])
    channels.close_files(message.files)


@pytest.mark.parametrize("claimed", [False, True])
async def test_a_replica_that_ends_before_it_says_so_has_begun_with_nothing(world: World, *, claimed: bool) -> None:
    taken, lost = world.connection(), world.connection()
    for connection in (taken, lost):
        world.link.hand(connection, 1)
    first, second = world.received(), world.received()
    if claimed:
        os.eventfd_read(second.files[1])
    channels.close_files(first.files + second.files)
    channels.send(world.other, Message(kind=Kind.TAKEN, number=first.number))
    world.other.close()
    await asyncio.sleep(0.01)
    assert world.is_lost
    assert (world.back, taken.fileno(), world.board.sent(SLOT)) == ([lost], -1, 0)


async def test_a_replica_that_speaks_nonsense_keeps_what_it_has_claimed(world: World) -> None:
    kept, free = world.connection(), world.connection()
    for connection in (kept, free):
        world.link.hand(connection, 1)
    first, second = world.received(), world.received()
    os.eventfd_read(first.files[1])
    world.other.send(b"nonsense?")
    await asyncio.sleep(0.01)
    assert (world.back, kept.fileno()) == ([free], -1)
    channels.close_files(first.files + second.files)


async def test_a_replica_that_reads_nothing_gets_a_bounded_number_and_nothing_is_lost(world: World) -> None:
    connections = [world.connection() for _ in range(100)]
    handed = [connection for connection in connections if world.link.hand(connection, 1)]
    assert len(handed) == 64
    await asyncio.sleep(0.1)
    assert world.back == handed


async def test_a_given_listener_stays_open_until_it_is_taken(world: World) -> None:
    listener = world.connection()
    world.link.give(listener)
    message = world.received()
    channels.close_files(message.files)
    assert not world.link.is_settled
    await world.answer(Kind.TAKEN, message.number)
    assert world.given_away == [(listener, True)]
    world.link.give(listener)
    world.other.close()
    await asyncio.sleep(0.01)
    assert world.given_away[1:] == [(listener, False)]


async def test_a_greeting_brings_the_board_and_a_spare_listener(world: World) -> None:
    other, listener = Board.create(), world.connection()
    other.show(5, 9)
    assert other.fd is not None
    await world.answer(Kind.GREETING, 0, (other.fd, listener.fileno()))
    assert world.link.board is not None
    assert (world.link.board.connections, world.link.board.room) == (5, 9)
    assert len(world.adopted) == 1
    assert world.received().kind is Kind.TAKEN
    other.close()
