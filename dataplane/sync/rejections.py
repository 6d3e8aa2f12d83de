"""Remembers the newest rejected positions, in bounded memory. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dataplane.snapshot.snapshot import Position
from dataplane.sync.events import Rejected

REJECTED_MAX = 16
"""Rejected positions that are remembered, the newest. A Hello may list no more."""


class Rejections:
    """Rejected snapshots by position, the oldest first. At most REJECTED_MAX."""

    def __init__(self, rejected: Iterable[Rejected] = ()) -> None:
        self._by_position: dict[Position, Rejected] = {}
        for item in rejected:
            self.add(item)

    def __iter__(self) -> Iterator[Rejected]:
        return iter(self._by_position.values())

    def add(self, rejected: Rejected) -> None:
        """Remember `rejected` as the newest. The oldest beyond the limit is forgotten."""
        self._by_position.pop(rejected.position, None)
        self._by_position[rejected.position] = rejected
        while len(self._by_position) > REJECTED_MAX:
            self._by_position.pop(next(iter(self._by_position)))

    def discard(self, position: Position) -> None:
        """Forget `position`, if it is remembered."""
        self._by_position.pop(position, None)

    def get(self, position: Position) -> Rejected | None:
        """Return what is remembered about `position`."""
        return self._by_position.get(position)

    @property
    def newest(self) -> Rejected | None:
        """The rejection that was added last."""
        return next(reversed(self._by_position.values()), None)
