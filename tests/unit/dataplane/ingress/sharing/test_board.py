"""What replicas read of each other."""

from __future__ import annotations

import os

import pytest

from dataplane.ingress.sharing.board import Board
from dataplane.ingress.sharing.placement import SLOTS


def test_what_a_replica_writes_is_seen_by_others_and_cannot_be_changed_there() -> None:
    own = Board.create()
    assert own.fd is not None
    seen = Board.of_other(own.fd)
    own.show(7, 100)
    own.beat(2**63)
    own.add_sent(SLOTS - 1, 3)
    own.add_sent(SLOTS - 1, -1)
    own.add_taken(0)
    assert (seen.connections, seen.room, seen.beat_ns) == (7, 100, 2**63)
    assert (seen.sent(SLOTS - 1), seen.taken(0)) == (2, 1)
    own.forget_sent(SLOTS - 1)
    own.forget_taken(0)
    assert (seen.sent(SLOTS - 1), seen.taken(0)) == (0, 0)
    with pytest.raises(TypeError):
        seen.show(0, 0)
    own.close()
    assert seen.connections == 7  # it lives as long as somebody has it
    seen.close()


def test_memory_that_is_too_small_is_refused_before_it_is_read() -> None:
    fd = os.memfd_create("small")
    try:
        os.ftruncate(fd, 100)
        with pytest.raises(ValueError, match="got 100 bytes, allowed are 2072"):
            Board.of_other(fd)
    finally:
        os.close(fd)
