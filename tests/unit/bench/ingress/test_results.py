from __future__ import annotations

import math

from tests.bench.ingress import plan
from tests.bench.ingress.shown.results import Results, Spread, spread
from tests.bench.ingress.shown.verdicts import p50, requests
from tests.unit.bench.ingress.samples import load, sample

UNARY = "unary-c16"


def test_a_spread_is_the_median_with_the_lowest_and_the_highest() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([]) is None
    assert Spread(1234.5, 1000.0, 2000.0).text(1) == "1,234.5 [1,000.0, 2,000.0]"


def test_rates_and_cpu_are_for_the_time_that_wrk_ran() -> None:
    found = sample(plan.FULL, case="stream-500-c16", cpu_s=0.5, of=load(requests=200, duration_s=2.0))
    assert (found.requests_per_s, found.chunks_per_s, found.cpu_s_per_1000) == (100.0, 50_000.0, 2.5)


def test_a_sample_without_answers_has_no_cpu_for_each() -> None:
    assert sample(plan.SERVE, of=load(requests=0)).cpu_s_per_1000 == math.inf


def test_a_ratio_compares_measurements_of_the_same_round() -> None:
    rounds = [(100, 1000), (300, 1000), (500, 5000)]
    results = Results(
        found
        for number, (ours, direct) in enumerate(rounds)
        for found in (
            sample(plan.FULL, number, of=load(requests=ours)),
            sample(plan.DIRECT, number, of=load(requests=direct)),
        )
    )
    assert results.ratios((UNARY, plan.FULL), (UNARY, plan.DIRECT), requests) == [0.1, 0.3, 0.1]


def test_what_a_subject_adds_is_its_latency_less_that_of_the_engine_in_the_same_round() -> None:
    results = Results(
        [
            sample(plan.DIRECT, 0, of=load(p50_ms=1.0)),
            sample(plan.FULL, 0, of=load(p50_ms=1.5)),
            sample(plan.FULL, 1, of=load(p50_ms=9.0)),  # the engine was not measured in this round
        ]
    )
    assert results.added(UNARY, plan.FULL, p50) == [0.5]


def test_rounds_without_answers_are_in_no_ratio() -> None:
    results = Results([sample(plan.FULL), sample(plan.SERVE, of=load(requests=0))])
    assert results.ratios((UNARY, plan.FULL), (UNARY, plan.SERVE), requests) == []


def test_samples_with_errors_and_without_answers_are_errors() -> None:
    failed, silent = sample(plan.ROUTER, of=load(errors=1)), sample(plan.SERVE, of=load(requests=0))
    assert Results([sample(plan.FULL), failed, silent]).errors() == [failed, silent]


def test_cases_and_subjects_are_in_the_order_of_the_plan() -> None:
    results = Results([sample(plan.FULL, case="names-c16"), sample(plan.FULL), sample(plan.DIRECT)])
    assert results.cases() == ["unary-c16", "names-c16"]
    assert results.subjects(UNARY) == [plan.DIRECT, plan.FULL]
