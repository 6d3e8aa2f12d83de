"""What was worked out from the current view, and is kept until the next one. Pure."""

from __future__ import annotations

from typing import Generic, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")

KEPT_MAX = 16 * 1024
"""Values of one source. A choice and a route take 800 bytes together, so all of them 13 MB."""


class Remembered(Generic[_K, _V]):
    """Values that follow from one source: a snapshot or a view, which never changes.

    Whatever is asked of another source is not there. So no value outlives what it follows from, and
    a catalog of a million names takes no more memory than its busiest sixteen thousand.
    """

    def __init__(self) -> None:
        self._source: object = None
        self._values: dict[_K, _V] = {}

    def get(self, source: object, key: _K) -> _V | None:
        """The value of a key; None: it was not kept."""
        return self._values.get(key) if source is self._source else None

    def keep(self, source: object, key: _K, value: _V) -> _V:
        """Keep a value, and return it.

        Those of other sources are dropped, and all when there are too many.
        """
        if source is not self._source or len(self._values) >= KEPT_MAX:
            self._source, self._values = source, {}
        self._values[key] = value
        return value

    def forget(self) -> None:
        """Drop all, with their source: an old snapshot may take as much memory as the next one."""
        self._source, self._values = None, {}
