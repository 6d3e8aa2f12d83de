"""What is kept of the current view."""

from __future__ import annotations

from dataplane.ingress.choices.remembered import KEPT_MAX, Remembered


def test_a_value_is_kept_for_its_source_only() -> None:
    kept, first, second = Remembered[str, int](), object(), object()
    kept.keep(first, "a", 1)
    assert kept.get(first, "a") == 1
    assert kept.get(second, "a") is None
    kept.keep(second, "b", 2)
    assert kept.get(first, "a") is kept.get(second, "a") is None
    assert kept.get(second, "b") == 2


def test_no_more_than_so_many_are_kept() -> None:
    kept, source = Remembered[int, int](), object()
    for number in range(3 * KEPT_MAX + 1):
        kept.keep(source, number, number)
    assert sum(kept.get(source, number) is not None for number in range(3 * KEPT_MAX + 1)) <= KEPT_MAX
    assert kept.get(source, 3 * KEPT_MAX) == 3 * KEPT_MAX


def test_what_is_forgotten_is_not_held_any_more() -> None:
    kept, source = Remembered[str, int](), object()
    kept.keep(source, "a", 1)
    kept.forget()
    assert kept.get(source, "a") is None
