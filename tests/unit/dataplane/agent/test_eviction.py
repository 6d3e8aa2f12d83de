"""Who goes so that others have room."""

from __future__ import annotations

from dataplane.agent.eviction import Sleeper, giving_way

GPU = {"GPU": 1.0, "CPU": 1.0}
A, B, C = (Sleeper(name, GPU) for name in "abc")


def test_nobody_goes_while_there_is_room() -> None:
    assert giving_way([GPU], [A, B], {"GPU": 1.0, "CPU": 8.0}) == set()


def test_the_first_of_the_sleepers_goes_and_no_more_than_needed() -> None:
    assert giving_way([GPU], [A, B], {"CPU": 8.0}) == {"a"}
    assert giving_way([{"GPU": 2.0}], [A, B, C], {"CPU": 8.0}) == {"a", "b"}
    assert giving_way([{"GPU": 2.0}], [A, B, C], {"GPU": 1.0}) == {"a"}


def test_each_need_takes_what_it_was_given() -> None:
    assert giving_way([GPU, GPU], [A, B, C], {"CPU": 8.0}) == {"a", "b"}
    assert giving_way([GPU, GPU], [A, B, C], {"GPU": 1.0, "CPU": 8.0}) == {"a"}


def test_nobody_goes_in_vain() -> None:
    assert giving_way([{"GPU": 8.0}], [A, B, C], {"GPU": 1.0}) == set()
    assert giving_way([{"GPU": 8.0}, GPU], [A, B, C], {"CPU": 1.0}) == {"a"}, "the next need is met all the same"


def test_who_holds_nothing_of_what_is_missing_stays() -> None:
    assert giving_way([{"GPU": 1.0}], [Sleeper("cpu", {"CPU": 4.0}), A], {}) == {"a"}
