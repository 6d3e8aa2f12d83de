from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataplane.openai.held_bytes import HeldBytes


def test_the_oldest_of_a_network_gives_way_to_a_newcomer_of_it() -> None:
    held = HeldBytes[str](bytes_max=1000, bytes_per_network_max=100)
    assert held.hold("a1", "a", 60) == []
    assert held.hold("b1", "b", 60) == []
    assert held.hold("a2", "a", 60) == ["a1"]
    assert held.total == 120


def test_the_oldest_of_all_gives_way_when_all_hold_too_much() -> None:
    held = HeldBytes[str](bytes_max=100, bytes_per_network_max=100)
    gone = [held.hold(name, name, 40) for name in ("a", "b", "c")]
    assert gone == [[], [], ["a"]]


def test_a_holder_keeps_its_age_when_it_holds_more() -> None:
    held = HeldBytes[str](bytes_max=100, bytes_per_network_max=100)
    held.hold("first", "n", 10)
    held.hold("second", "n", 40)
    assert held.hold("first", "n", 70) == ["first"]
    assert held.total == 40


def test_one_that_alone_holds_too_much_gives_way_itself() -> None:
    held = HeldBytes[str](bytes_max=100, bytes_per_network_max=50)
    assert held.hold("a", "n", 51) == ["a"]
    assert held.total == 0


def test_who_has_released_does_not_give_way() -> None:
    held = HeldBytes[str](bytes_max=100, bytes_per_network_max=100)
    held.hold("a", "n", 60)
    held.release("a")
    held.release("a")
    assert held.hold("b", "n", 60) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60) | st.none())))
def test_neither_budget_is_ever_exceeded(steps: list[tuple[int, int | None]]) -> None:
    held = HeldBytes[int](bytes_max=100, bytes_per_network_max=50)
    expected: dict[int, int] = {}
    for holder, held_bytes in steps:
        if held_bytes is None:
            held.release(holder)
            expected.pop(holder, None)
            continue
        expected[holder] = held_bytes
        for gone in held.hold(holder, holder % 2, held_bytes):
            del expected[gone]
        assert held.total == sum(expected.values()) <= 100
        for network in range(2):
            assert sum(size for one, size in expected.items() if one % 2 == network) <= 50
