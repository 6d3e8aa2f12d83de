"""How far data planes are behind, by a clock that does not go back."""

from __future__ import annotations

import pytest

from controlplane.catalog.domain import Head
from controlplane.fleet import lag
from controlplane.fleet.lag import Lag, Lags
from tests.unit.controlplane.fleet_world import World, at, head


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lags(clock: Clock) -> Lags:
    return Lags(head(5), clock=clock)


def test_the_newest_snapshot_is_not_behind_and_another_store_is_not_compared(lags: Lags) -> None:
    assert lags.of(at(5)) == Lag(revisions=0, duration_s=0)
    assert lags.of(None) is None
    assert lags.of(at(4, "another")) is None


def test_a_lag_is_from_the_first_snapshot_that_is_not_served(lags: Lags, clock: Clock) -> None:
    for revision in (6, 7, 8):
        clock.now_s += 10
        lags.follow(head(revision))
    clock.now_s += 1
    assert lags.of(at(8)) == Lag(revisions=0, duration_s=0)
    assert lags.of(at(7)) == Lag(revisions=1, duration_s=1)
    assert lags.of(at(5)) == Lag(revisions=3, duration_s=21)


def test_revisions_of_one_commit_were_missed_at_the_same_time(lags: Lags, clock: Clock) -> None:
    clock.now_s += 10
    lags.follow(head(60))  # of a group, the newest is announced first, and the others are old then
    clock.now_s += 2
    assert lags.of(at(30)) == Lag(revisions=30, duration_s=2)


def test_before_the_start_of_the_process_nothing_is_known(lags: Lags, clock: Clock) -> None:
    clock.now_s += 7
    assert lags.of(at(2)) == Lag(revisions=3, duration_s=7)


def test_memory_is_bounded_and_long_lags_are_still_told(lags: Lags, clock: Clock) -> None:
    moved_s = {}
    for revision in range(6, 100_006):
        # Some a second, and days without one.
        clock.now_s += 200_000 if revision % 30_000 == 0 else 0.5
        moved_s[revision] = clock.now_s
        lags.follow(head(revision))
    assert len(lags._revisions) == len(lags._times_s) <= lag.TIMES_MAX
    for serving in (5, 6, 1000, 29_999, 30_000, 50_000, 59_998, 90_000, 99_990, 100_004):
        found = lags.of(at(serving))
        assert found is not None
        exact_s = clock.now_s - moved_s[serving + 1]
        assert found.revisions == 100_005 - serving
        assert found.duration_s == pytest.approx(exact_s, rel=lag.ERROR_MAX), serving


def test_data_planes_are_grouped_by_how_long_they_are_behind(lags: Lags, clock: Clock) -> None:
    lags.follow(head(6))
    clock.now_s += 5
    lags.follow(head(7))
    counts = lags.grouped([at(7), at(6), at(5), None])
    assert {name: count for name, count in counts.items() if count} == {
        "none": 1,
        "up to 1 s": 1,
        "up to 10 s": 1,
        "unknown": 1,
    }
    clock.now_s += 10_000
    assert lags.grouped([at(6)])["longer"] == 1


async def test_the_fleet_follows_the_head(clock: Clock) -> None:
    world = World()
    world.fan_out.publish(head(6))
    world.fan_out.publish(head(6))
    world.fan_out.publish(Head(position=at(3), entry_count=0))
    found = world.fleet.lags.of(at(5))
    assert found is not None
    assert found.revisions == 1
    await world.connect(have=at(5))
    assert world.fan_out.data_planes_by_lag()["up to 1 s"] == 1
