from __future__ import annotations

import math

from controlplane.fleet.waiting.watches import Watch, Watches


class Fleet:
    """From which revision on each data plane is PENDING, and how often that was asked."""

    def __init__(self, **pending_from: float) -> None:
        self.pending_from = pending_from
        self.asked = 0

    def ask(self, data_plane_id: str) -> float:
        self.asked += 1
        return self.pending_from[data_plane_id]


def test_a_watch_counts_the_data_planes_that_are_pending() -> None:
    fleet = Fleet(a=5, b=9, c=math.inf)
    watches = Watches(fleet.ask)
    low, high = Watch(7, ("a", "b", "c")), Watch(9, ("a", "b"))
    watches.add(low)
    watches.add(high)
    assert (low.pending, high.pending) == (1, 2)
    fleet.pending_from["a"] = 8
    assert list(watches.update("a")) == [low]
    assert (low.pending, high.pending) == (0, 2)
    fleet.pending_from["a"] = fleet.pending_from["b"] = math.inf
    assert [list(watches.update(name)) for name in "ab"] == [[high], [high]]
    # A data plane may fall back: it was restored from an older snapshot.
    fleet.pending_from["b"] = 0
    assert set(watches.update("b")) == {low, high}
    assert (low.pending, high.pending) == (1, 1)


def test_a_closed_watch_leaves_nothing_behind() -> None:
    fleet = Fleet(a=5, b=9)
    watches = Watches(fleet.ask)
    first, second = Watch(7, ("a", "b")), Watch(7, ("a",))
    for watch in (first, second):
        watches.add(watch)
    watches.remove(first)
    assert (list(watches.ids), watches.size) == (["a"], 1)
    watches.remove(second)
    assert (list(watches.ids), watches.size) == ([], 0)
    fleet.pending_from["a"] = 99
    assert list(watches.update("a")) == []
    assert watches._revisions == []


def test_a_change_looks_at_the_waits_that_it_decides_only() -> None:
    ids = tuple(f"dp-{number}" for number in range(100))
    fleet = Fleet(**dict.fromkeys(ids, 50))
    watches = Watches(fleet.ask)
    opened = [Watch(revision, ids) for revision in range(200)]
    for watch in opened:
        watches.add(watch)
    fleet.asked = 0
    fleet.pending_from["dp-7"] = 53
    assert list(watches.update("dp-7")) == opened[50:53]
    assert list(watches.update("dp-8")) == []
    assert fleet.asked == 2
