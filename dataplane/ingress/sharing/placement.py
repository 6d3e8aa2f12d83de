"""Which replica of a node gets a new connection. Pure."""

from __future__ import annotations

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
