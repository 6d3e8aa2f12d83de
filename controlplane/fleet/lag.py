"""How far data planes are behind the newest snapshot. Pure.

Times are seconds of a clock that does not go back, of this process.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from controlplane.catalog.domain import Head, Position

ERROR_MAX = 0.02
"""By how much of its length a lag may be told too short."""

TIMES_MAX = 4096
"""Moves of the head whose time is remembered. With this error, those of a year are about 2,500."""

GROUPS_S: Mapping[str, float] = {"up to 1 s": 1, "up to 10 s": 10, "up to 1 min": 60, "up to 10 min": 600}
"""How data planes that are behind are grouped: names, and the longest lag of each. Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far a data plane is behind."""

    revisions: int
    """0: it serves the newest snapshot."""
    duration_s: float
    """Since the first snapshot was committed that it does not serve."""


class Lags:
    """Remembers when the head moved."""

    def __init__(self, head: Head, *, clock: Callable[[], float]) -> None:
        """
        Args:
            head: The newest snapshot at start.
            clock: Seconds of a clock that does not go back.
        """
        self._clock = clock
        self._head = head
        self._revisions = [head.position.revision]
        """To which the head has moved, rising."""
        self._times_s = [clock()]
        """When. The first is the start of the process, before which nothing is known."""

    def follow(self, head: Head) -> None:
        """The head has moved."""
        self._head = head
        self._revisions.append(head.position.revision)
        self._times_s.append(self._clock())
        if len(self._revisions) > TIMES_MAX:
            self._forget()

    def _forget(self) -> None:
        """Forget each move that was, for its age, soon followed by one that is remembered."""
        now_s = self._times_s[-1]
        kept = [(self._revisions[-1], now_s)]
        for revision, time_s in zip(reversed(self._revisions[:-1]), reversed(self._times_s[:-1]), strict=True):
            # The half, because the one that is kept may be forgotten later, at twice its age.
            if kept[-1][1] - time_s > ERROR_MAX / 2 * (now_s - time_s):
                kept.append((revision, time_s))
        # Should the clock stand still, the oldest go.
        del kept[TIMES_MAX // 2 :]
        self._revisions, self._times_s = [revision for revision, _ in kept[::-1]], [time_s for _, time_s in kept[::-1]]

    def of(self, serving: Position | None) -> Lag | None:
        """The lag of a data plane; None: it serves nothing, or a snapshot of another store."""
        head = self._head.position
        if serving is None or serving.store_uid != head.store_uid:
            return None
        if serving.revision >= head.revision:
            return Lag(revisions=0, duration_s=0.0)
        since_s = self._times_s[bisect_right(self._revisions, serving.revision)]
        return Lag(revisions=head.revision - serving.revision, duration_s=self._clock() - since_s)

    def grouped(self, served: Iterable[Position | None]) -> Mapping[str, int]:
        """How many data planes are behind for how long."""
        counts = dict.fromkeys(("none", *GROUPS_S, "longer", "unknown"), 0)
        for serving in served:
            counts[self._group(self.of(serving))] += 1
        return counts

    @staticmethod
    def _group(lag: Lag | None) -> str:
        if lag is None:
            return "unknown"
        if not lag.revisions:
            return "none"
        return next((name for name, longest_s in GROUPS_S.items() if lag.duration_s <= longest_s), "longer")
