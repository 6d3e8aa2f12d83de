"""A watcher of the relay's core."""

from __future__ import annotations

from collections.abc import Sequence

from dataplane.relay.state import Cursor, RelayState, StoredChanges
from dataplane.relay.topics import Key, Watched


class Follower:
    """Keeps the values that its looks have found."""

    def __init__(self, made: RelayState, watched: Sequence[Watched]) -> None:
        self._state = made
        self._watched = watched
        self._cursor: Cursor | None = None
        self.values: dict[Key, bytes] = {}

    def look(self) -> StoredChanges:
        changes = self._state.changes(self._watched, self._cursor)
        self._cursor = changes.cursor
        if changes.is_complete:
            self.values.clear()
        self.values.update(changes.changed)
        for key in changes.removed:
            self.values.pop(key, None)
        return changes
