from __future__ import annotations

from tests.bench.ingress import plan


def test_every_axis_of_the_benchmark_is_varied() -> None:
    assert {case.connections for case in plan.CASES} == {1, 16, 64, 256}
    assert {case.body_bytes for case in plan.CASES} == {1024, 64 * 1024, 4 * 1024 * 1024}
    assert {case.answer for case in plan.CASES} == {"unary", "stream-50", "stream-500", "stream-8k"}
    assert {case.model for case in plan.CASES} == {"m0", "m0:a0", "r0"}
    assert set(plan.NAMES.values()) == {10, 1_000, 100_000}


def test_every_subject_is_in_a_quick_run() -> None:
    quick = {name for case in plan.CASES if case.is_quick for name in case.subjects}
    assert quick == set(plan.SUBJECTS)


def test_cases_without_a_chosen_subject_are_left_out() -> None:
    chosen = plan.chosen(plan.CASES, [plan.FULL_10])
    assert {names for _, names in chosen} == {(plan.FULL_10,)}
    assert {case.name for case, _ in chosen} == {"names-c1", "names-c16"}


def test_each_round_begins_with_another_subject() -> None:
    orders = [plan.in_turns(("a", "b", "c"), number) for number in range(4)]
    assert orders == [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b"), ("a", "b", "c")]


def test_names_of_cases_are_unique() -> None:
    assert len({case.name for case in plan.CASES}) == len(plan.CASES)
