"""Which replica of a node gets a new connection. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SLOTS = 128
"""Replicas of a node: twice the most that may be configured, for those that take the place of
others."""
_LEAST_DIFFERENCE = 2
"""With a difference of one, moving a connection would only swap the two replicas."""
_SLACK = 16
"""Of so many connections, one more of difference is allowed: the kernel spreads many connections
well enough, and each move costs."""


_BURST = 256
"""Connections that one replica may hand over at once: a client's pool that opens."""
_PER_S = 100.0
"""How many it may hand over in a second in the long run. Each costs as much CPU as a request. Where
more come, they do not stay, and the kernel's spread is even over a second."""


class Budget:
    """How many connections may be handed over."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """
        Args:
            monotonic: Seconds on a clock that never steps.
        """
        self._monotonic = monotonic
        self._left = float(_BURST)
        self._seen_at = monotonic()

    @property
    def has_some(self) -> bool:
        """Whether one more may be."""
        now = self._monotonic()
        self._left = min(_BURST, self._left + (now - self._seen_at) * _PER_S)
        self._seen_at = now
        return self._left >= 1

    def spend(self) -> None:
        """One was."""
        self._left -= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Another replica of the node."""

    slot: int
    """Its number on the node."""
    connections: int
    """Open connections."""
    room: int
    """How many it may have; 0: it takes none."""


def choose(own: int, own_slot: int, others: Sequence[Candidate], on_the_way: Callable[[int], int]) -> int | None:
    """The slot that a new connection is handed to. None: it stays.

    Args:
        own: Connections here, with the new one and with those on their way here.
        own_slot: Number of this replica on the node. Replicas that choose at the same time begin
            with different ones.
        others: The replicas that may take it.
        on_the_way: How many connections are on their way to a slot.
    """
    most = own - _LEAST_DIFFERENCE - own // _SLACK
    best, best_slot = most + 1, None
    for other in sorted(others, key=lambda other: (other.connections, (other.slot - own_slot) % SLOTS)):
        if other.connections >= best:
            break  # what is on the way only adds to it
        connections = other.connections + on_the_way(other.slot)
        if connections < min(best, other.room):
            best, best_slot = connections, other.slot
    return best_slot


def choose_any(own_slot: int, others: Sequence[Candidate]) -> int | None:
    """The slot that a connection is handed to by a replica that stops. None: nobody has room."""
    willing = [other for other in others if other.connections < other.room]
    if not willing:
        return None
    return min(willing, key=lambda other: (other.connections, (other.slot - own_slot) % SLOTS)).slot


def surplus(own: int, others: Sequence[Candidate]) -> int:
    """How many connections of this replica should be at the others, which have fewer; mostly 0."""
    willing = [other.connections for other in others if other.connections < other.room]
    if not willing or own - min(willing) < _LEAST_DIFFERENCE + own // _SLACK:
        return 0
    return max(0, own - math.ceil((own + sum(willing)) / (1 + len(willing))))
