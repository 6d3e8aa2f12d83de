"""The snapshots that a client has rejected. Pure."""

from __future__ import annotations

from controlplane.catalog.domain import Position

REJECTED_MAX = 32
"""Positions remembered per stream: 16 that a Hello may list, and as many from the stream itself.
An older position never becomes the head again."""


class Rejections:
    """The last positions that a client has rejected. They are not sent again."""

    def __init__(self) -> None:
        self._positions: dict[Position, None] = {}

    def add(self, position: Position) -> None:
        """Remember a rejection, and forget the oldest if there are too many."""
        self._positions[position] = None
        while len(self._positions) > REJECTED_MAX:
            self._positions.pop(next(iter(self._positions)))

    def __contains__(self, position: Position) -> bool:
        return position in self._positions
