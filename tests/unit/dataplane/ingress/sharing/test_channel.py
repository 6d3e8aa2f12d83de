"""Messages between the replicas of a node."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.ingress.sharing import channel as channels
from dataplane.ingress.sharing.channel import ChannelClosed, Kind, Message, place_of
from dataplane.ingress.sharing.placement import SLOTS


@pytest.fixture
def place() -> str:
    return place_of(secrets.token_hex(8), "127.0.0.1", 8000)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_places_differ_by_data_plane_and_address_and_fit_into_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [("a", "127.0.0.1", 80), ("b", "127.0.0.1", 80), ("a", "0.0.0.0", 80), ("a", "127.0.0.1", 81)]
    places = {place_of(*one) for one in asked}
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    places.add(place_of(*asked[0]))
    assert len(places) == 5
    assert all(len(f"{place}{SLOTS}") < 108 for place in [*places, place_of("x" * 1000, "y" * 1000, 65535)])


def test_each_slot_is_claimed_once_and_is_free_when_its_process_ends(place: str) -> None:
    claimed = [channels.claim_slot(place) for _ in range(SLOTS)]
    taken = [one for one in claimed if one is not None]
    assert [slot for slot, _ in taken] == list(range(SLOTS))
    assert channels.claim_slot(place) is None
    taken[5][1].close()
    again = channels.claim_slot(place)
    assert again is not None
    assert again[0] == 5
    for _, listener in [*taken, again]:
        listener.close()


def test_a_process_of_another_user_is_not_talked_to(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = channels.claim_slot(place)
    assert claimed is not None
    slot, listener = claimed
    with listener:
        channel = channels.connect(place, slot)
        assert channel is not None
        accepted, _ = listener.accept()
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert channels.connect(place, slot) is None
        assert not channels.is_own(accepted)
        assert accepted.fileno() == -1
        channel.close()


def test_nobody_at_a_slot_is_no_error(place: str) -> None:
    assert channels.connect(place, 3) is None


def test_a_message_arrives_whole_with_its_files(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    read, write = os.pipe()
    channels.send(one, Message(kind=Kind.CONNECTION, slot=5, number=2**32 - 1, hops=2, files=(read, write)))
    os.close(read)
    os.close(write)
    got = channels.receive(other)
    assert got is not None
    assert (got.kind, got.slot, got.number, got.hops, len(got.files)) == (Kind.CONNECTION, 5, 2**32 - 1, 2, 2)
    assert not any(os.get_inheritable(file) for file in got.files)
    channels.close_files(got.files)
    assert channels.receive(other) is None


@pytest.mark.parametrize(
    "content", [b"\x01", b"\x00" * 8, b"\xff" * 8, b"\x01" * 9, b"\x01\xff\xff\x00\x00\x00\x00\x00"], ids=repr
)
def test_what_is_no_message_ends_the_channel_and_its_files_are_closed(
    pair: tuple[socket.socket, socket.socket], content: bytes
) -> None:
    one, other = pair
    before = open_files()
    socket.send_fds(one, [content], [one.fileno(), one.fileno()])
    with pytest.raises(ChannelClosed) as end:
        channels.receive(other)
    assert not end.value.gone
    assert open_files() == before


def test_files_that_a_message_should_not_have_are_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    before = open_files()
    for message in (
        Message(kind=Kind.HELLO, files=(one.fileno(),)),
        Message(kind=Kind.CONNECTION, files=(one.fileno(),)),
        Message(kind=Kind.LISTENER, files=(one.fileno(), one.fileno())),
        Message(kind=Kind.LISTENER, files=(one.fileno(),) * 5),
    ):
        channels.send(one, message)
        got = channels.receive(other)
        assert got is not None
        assert got.files == ()
    assert open_files() == before


def test_the_end_of_the_other_process_is_told_from_a_wrong_message(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    one.close()
    with pytest.raises(ChannelClosed) as end:
        channels.receive(other)
    assert end.value.gone
