"""How a replica meets the others of its node, whatever they are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dataplane.ingress.sharing import channel as channels
from dataplane.ingress.sharing.channel import Kind, Message, place_of
from dataplane.ingress.sharing.placement import SLOTS
from dataplane.ingress.sharing.siblings import Siblings


class Replica:
    """A receiver that keeps what it gets."""

    def __init__(self, place: str) -> None:
        self.siblings = Siblings(place, self)
        self.taken: list[socket.socket] = []
        self.back: list[socket.socket] = []
        self.listeners: list[socket.socket] = []

    async def start(self) -> None:
        await self.siblings.join()
        self.siblings.show(0, 100)

    def take(self, connection: socket.socket, hops: int) -> None:
        self.taken.append(connection)
        self.siblings.show(len(self.taken), 100)

    def take_back(self, connection: socket.socket) -> None:
        self.back.append(connection)

    def adopt(self, listener: socket.socket) -> None:
        self.listeners.append(listener)

    def given(self, listener: socket.socket, *, taken: bool) -> None:
        pass

    def spare_listener(self) -> socket.socket | None:
        return None

    def close(self) -> None:
        self.siblings.leave()
        for one in (*self.taken, *self.back, *self.listeners):
            one.close()


@pytest.fixture
def place() -> str:
    return place_of(secrets.token_hex(8), "127.0.0.1", 8000)


@pytest.fixture
async def replicas(place: str) -> AsyncIterator[list[Replica]]:
    made = [Replica(place) for _ in range(3)]
    yield made
    for one in made:
        one.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until_met(*replicas: Replica) -> None:
    async with asyncio.timeout(2):
        while any(one.siblings.count != len(replicas) - 1 for one in replicas):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_those_that_start_together_all_meet(replicas: list[Replica]) -> None:
    await asyncio.gather(*(one.start() for one in replicas))
    await until_met(*replicas)


async def test_one_that_has_left_is_gone_at_once_and_its_slot_is_used_again(replicas: list[Replica]) -> None:
    first, second, third = replicas
    await first.start()
    await second.start()
    await until_met(first, second)
    second.close()
    await asyncio.sleep(0.01)
    assert first.siblings.count == 0
    await third.start()
    await until_met(first, third)
    ours, theirs = socket.socketpair()
    assert first.siblings.hand(ours, 1, own=5)
    await asyncio.sleep(0.01)
    assert len(third.taken) == 1
    assert first.siblings.is_settled
    theirs.close()


async def test_with_all_slots_taken_a_replica_is_alone(place: str) -> None:
    claims = [channels.claim_slot(place) for _ in range(SLOTS)]
    alone = Replica(place)
    await alone.start()
    ours, theirs = socket.socketpair()
    assert not alone.siblings.hand(ours, 1, own=1000)
    assert not alone.siblings.hand(ours, 1, own=None)
    assert not alone.siblings.give(ours)
    assert alone.siblings.is_settled
    alone.close()
    for claim in claims:
        assert claim is not None
        claim[1].close()
    ours.close()
    theirs.close()


async def test_one_that_never_answers_is_waited_for_half_a_second_and_handed_nothing(place: str) -> None:
    claimed = channels.claim_slot(place)
    assert claimed is not None
    replica = Replica(place)
    began = time.monotonic()
    await replica.start()
    assert 0.4 < time.monotonic() - began < 2
    ours, theirs = socket.socketpair()
    assert not replica.siblings.hand(ours, 1, own=1000)
    replica.close()
    for one in (claimed[1], ours, theirs):
        one.close()


async def test_callers_that_speak_nonsense_or_nothing_take_no_more_than_a_bounded_place(place: str) -> None:
    replica = Replica(place)
    await replica.start()
    before = open_files()
    silent = [channels.connect(place, 0) for _ in range(3 * SLOTS)]
    callers = [one for one in silent if one is not None]
    await asyncio.sleep(0.1)
    opened = open_files() - before - len(callers)
    assert opened <= 2 * SLOTS
    for caller in callers:
        with contextlib.suppress(OSError):
            caller.send(b"nonsense?")
    await asyncio.sleep(0.1)
    assert open_files() - before == len(callers)
    other = Replica(place)
    await other.start()
    await until_met(replica, other)
    replica.close()
    other.close()
    for caller in callers:
        caller.close()


async def test_a_message_out_of_turn_is_refused_and_changes_nothing(place: str) -> None:
    replica = Replica(place)
    await replica.start()
    caller = channels.connect(place, 0)
    assert caller is not None
    ours, theirs = socket.socketpair()
    claim = os.eventfd(0, os.EFD_NONBLOCK)  # it was read
    channels.send(caller, Message(kind=Kind.CONNECTION, number=1, files=(ours.fileno(), claim)))
    os.close(claim)
    channels.send(caller, Message(kind=Kind.CONNECTION, number=2))
    channels.send(caller, Message(kind=Kind.TAKEN))
    channels.send(caller, Message(kind=Kind.HELLO, slot=0))  # its own slot
    await asyncio.sleep(0.02)
    answers = [channels.receive(caller) for _ in range(3)]
    assert [(one.kind, one.number) for one in answers if one is not None] == [
        (Kind.REFUSED, 1),
        (Kind.REFUSED, 2),
        (Kind.GREETING, 0),
    ]
    assert replica.taken == []
    assert replica.siblings.count == 0
    for answer in answers:
        assert answer is not None
        channels.close_files(answer.files)
    for one in (caller, ours, theirs, replica):
        one.close()


async def test_a_replica_that_stops_refuses_what_was_on_its_way_and_leaves_the_claim(place: str) -> None:
    replica = Replica(place)
    await replica.start()
    replica.siblings.show(0, 0)
    caller = channels.connect(place, 0)
    assert caller is not None
    ours, theirs = socket.socketpair()
    claim = os.eventfd(1, os.EFD_NONBLOCK)
    channels.send(caller, Message(kind=Kind.CONNECTION, number=7, files=(ours.fileno(), claim)))
    channels.send(caller, Message(kind=Kind.LISTENER, number=8, files=(ours.fileno(),)))
    await asyncio.sleep(0.02)
    answers = [channels.receive(caller) for _ in range(2)]
    assert [(one.kind, one.number) for one in answers if one is not None] == [(Kind.REFUSED, 7), (Kind.REFUSED, 8)]
    assert (os.eventfd_read(claim), replica.taken, replica.listeners) == (1, [], [])
    os.close(claim)
    for one in (caller, ours, theirs, replica):
        one.close()
