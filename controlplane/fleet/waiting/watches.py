"""Which waits for a revision end when a data plane changes. Pure.

The work of a change is in proportion to the waits that it decides, not to all that there are.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator

PendingFrom = Callable[[str], float]
"""The lowest revision that is PENDING at a data plane, by its id; infinity: none is."""


class Watch:
    """A revision, and the data planes at which it is not to be PENDING."""

    __slots__ = ("ids", "pending", "revision")

    def __init__(self, revision: int, ids: tuple[str, ...]) -> None:
        self.revision = revision
        self.ids = ids
        self.pending = 0
        """Data planes at which the revision is PENDING."""


class Watches:
    """The watches that are open, indexed by data plane and revision.

    Invariant: `pending` of each watch counts its data planes whose `_pending_from` is at most its
    revision.
    """

    def __init__(self, pending_from: PendingFrom) -> None:
        self._ask = pending_from
        self._pending_from: dict[str, float] = {}
        """Of each data plane that is watched, as of its last `update`."""
        self._revisions: list[int] = []
        """All that are watched, in order."""
        self._at: dict[int, dict[str, list[Watch]]] = {}
        """By revision and data plane."""
        self._watchers: dict[str, int] = {}
        """How many watches each data plane has."""
        self.size = 0
        """Data planes of all watches together."""

    @property
    def ids(self) -> Collection[str]:
        """The data planes that are watched."""
        return self._pending_from.keys()

    def add(self, watch: Watch) -> None:
        """Open a watch."""
        if watch.revision not in self._at:
            insort(self._revisions, watch.revision)
        at = self._at.setdefault(watch.revision, {})
        for data_plane_id in watch.ids:
            if data_plane_id not in self._pending_from:
                self._pending_from[data_plane_id] = self._ask(data_plane_id)
            self._watchers[data_plane_id] = self._watchers.get(data_plane_id, 0) + 1
            at.setdefault(data_plane_id, []).append(watch)
            watch.pending += self._pending_from[data_plane_id] <= watch.revision
        self.size += len(watch.ids)

    def remove(self, watch: Watch) -> None:
        """Close a watch."""
        at = self._at[watch.revision]
        for data_plane_id in watch.ids:
            at[data_plane_id].remove(watch)
            if not at[data_plane_id]:
                del at[data_plane_id]
            self._watchers[data_plane_id] -= 1
            if not self._watchers[data_plane_id]:
                del self._watchers[data_plane_id], self._pending_from[data_plane_id]
        if not at:
            del self._at[watch.revision]
            self._revisions.remove(watch.revision)
        self.size -= len(watch.ids)

    def update(self, data_plane_id: str) -> Iterator[Watch]:
        """A data plane has changed, or the head has. Yields the watches whose `pending` changes."""
        before = self._pending_from.get(data_plane_id)
        if before is None:
            return
        after = self._pending_from[data_plane_id] = self._ask(data_plane_id)
        change = 1 if after < before else -1
        for revision in self._between(min(before, after), max(before, after)):
            for watch in self._at[revision].get(data_plane_id, ()):
                watch.pending += change
                yield watch

    def _between(self, first: float, end: float) -> list[int]:
        """The watched revisions from `first` until before `end`."""
        last = len(self._revisions) if end == math.inf else bisect_left(self._revisions, end)
        return self._revisions[bisect_left(self._revisions, first) : last]
