"""Changes of one sorted map that are collected, and then made at once. Pure."""

from __future__ import annotations

from typing import Generic, TypeVar

from dataplane.snapshot.persistent.sorted_map import SortedMap

_K = TypeVar("_K")
_V = TypeVar("_V")


class MapEdit(Generic[_K, _V]):
    """What is to be set in a map and removed from it. The later of two steps for a key counts."""

    def __init__(self, base: SortedMap[_K, _V]) -> None:
        self._base = base
        self._values: dict[_K, _V] = {}
        self._removed: set[_K] = set()

    def set(self, key: _K, value: _V) -> None:
        """Set a key."""
        self._values[key] = value

    def discard(self, key: _K) -> None:
        """Remove a key; nothing happens if it is not there."""
        self._values.pop(key, None)
        self._removed.add(key)

    def get(self, key: _K) -> _V | None:
        """The value of a key after the edit; None: it has none."""
        if key in self._values:
            return self._values[key]
        return None if key in self._removed else self._base.get(key)

    def result(self) -> SortedMap[_K, _V]:
        """The map after the edit."""
        return self._base.updated(self._values, self._removed)
