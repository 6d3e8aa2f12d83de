"""The history checker finds each kind of violation."""

from __future__ import annotations

import pytest

from tests.history import Write, violations


def write(value: str, began_s: float, ended_s: float, revision: int) -> Write:
    return Write(value=value, began_s=began_s, ended_s=ended_s, revision=revision)


GOOD = [write("a", 0, 5, 2), write("b", 1, 3, 1), write("c", 4, 6, 3)]
FOUND = {1: "b", 2: "a", 3: "c"}


def test_overlapping_writes_may_come_in_any_order() -> None:
    assert violations(GOOD, FOUND, 3) == []


@pytest.mark.parametrize(
    ("writes", "found", "head", "message"),
    [
        (GOOD, {1: "b", 2: "a"}, 3, "c: acknowledged at 3"),
        (GOOD, {**FOUND, 5: "d"}, 5, "revision 4: a gap"),
        (GOOD, FOUND, 2, "beyond the head"),
        (GOOD, {**FOUND, 4: "c"}, 4, "c: there 2 times"),
        (GOOD, {**FOUND, 4: "d"}, 4, "never acknowledged"),
        ([*GOOD[:2], write("c", 4, 6, 2)], FOUND, 3, "c: acknowledged at 2, where a is"),
        ([write("a", 0, 1, 2), write("b", 2, 3, 1)], {1: "b", 2: "a"}, 2, "a at 2 ended before b at 1 began"),
    ],
)
def test_each_violation_is_reported(writes: list[Write], found: dict[int, str], head: int, message: str) -> None:
    assert any(message in violation for violation in violations(writes, found, head))
