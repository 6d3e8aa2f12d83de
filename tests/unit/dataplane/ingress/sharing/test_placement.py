"""Which replica gets a new connection."""

from __future__ import annotations

import pytest

from dataplane.ingress.sharing.placement import Budget, Candidate, choose, choose_any, surplus


def others(*connections: int, room: int = 100) -> list[Candidate]:
    """Replicas with slots 1, 2, 3 … and so many connections."""
    return [Candidate(slot=slot, connections=count, room=room) for slot, count in enumerate(connections, 1)]


def nothing(slot: int) -> int:
    return 0


@pytest.mark.parametrize(
    ("own", "counts", "slot"),
    [
        (1, (0, 0), None),  # moving it would only swap the two
        (2, (0, 0), 1),
        (2, (1, 0), 2),
        (3, (2, 2), None),
        (4, (2, 3), 1),
        (15, (13,), 1),
        (100, (93,), None),  # within a sixteenth
        (100, (92,), 1),
        (5, (), None),
    ],
)
def test_a_connection_goes_to_the_one_with_fewest_if_that_evens_out(
    own: int, counts: tuple[int, ...], slot: int | None
) -> None:
    assert choose(own, 0, others(*counts), nothing) == slot


def test_what_is_on_the_way_to_a_replica_counts() -> None:
    assert choose(3, 0, others(0, 1), {1: 2, 2: 0}.__getitem__) == 2
    assert choose(3, 0, others(0, 1), {1: 2, 2: 1}.__getitem__) is None


def test_what_is_on_the_way_is_asked_only_of_those_that_could_be_chosen() -> None:
    asked = []

    def on_the_way(slot: int) -> int:
        asked.append(slot)
        return 0

    assert choose(50, 0, others(40, 1, 30, 1), on_the_way) == 2
    assert asked == [2]


def test_replicas_that_choose_together_begin_with_different_ones() -> None:
    candidates = [Candidate(slot=slot, connections=0, room=10) for slot in (3, 7, 11)]
    assert {own: choose(2, own, candidates, nothing) for own in (0, 4, 8, 12)} == {0: 3, 4: 7, 8: 11, 12: 3}


def test_a_full_or_stopping_replica_gets_nothing() -> None:
    full, stopping = others(5, room=5), others(0, room=0)
    assert choose(50, 0, full, nothing) is None
    assert choose(50, 0, stopping, nothing) is None
    assert choose_any(0, [*full, *stopping]) is None


def test_a_replica_that_stops_hands_to_anybody_with_room() -> None:
    assert choose_any(0, others(8, 6, 7)) == 2
    assert choose_any(0, []) is None


def test_a_burst_is_shared_whole_and_a_flood_of_short_connections_at_a_bounded_cost() -> None:
    now = [0.0]
    budget = Budget(lambda: now[0])

    def spend(tries: int) -> int:
        spent = 0
        for _ in range(tries):
            if budget.has_some:
                budget.spend()
                spent += 1
        return spent

    assert spend(1000) == 256
    now[0] += 1.0
    assert spend(1000) == 100
    now[0] += 3600.0
    assert spend(1000) == 256


@pytest.mark.parametrize(
    ("own", "counts", "wanted"),
    [
        (6, (0,), 3),
        (6, (5,), 0),
        (6, (4,), 1),
        (7, (0, 0), 4),
        (100, (95, 93), 0),  # within a sixteenth
        (100, (0, 0, 0), 75),
        (5, (4, 0), 2),
        (3, (), 0),
        (0, (9,), 0),
        (3, (1, 9), 0),  # another one has too many
    ],
)
def test_the_surplus_is_what_brings_this_replica_to_the_mean(own: int, counts: tuple[int, ...], wanted: int) -> None:
    assert surplus(own, others(*counts)) == wanted


def test_nothing_is_too_much_if_nobody_has_room() -> None:
    assert surplus(50, [*others(10, room=10), *others(0, room=0)]) == 0
