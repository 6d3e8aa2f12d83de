from __future__ import annotations

from tests.bench.ingress import plan
from tests.bench.ingress.shown.results import Results
from tests.bench.ingress.shown.verdicts import Verdict, verdicts
from tests.unit.bench.ingress.samples import load, sample


def found(results: Results) -> dict[str, Verdict]:
    return {verdict.what: verdict for verdict in verdicts(results)}


def test_what_was_not_measured_has_no_verdict() -> None:
    assert verdicts(Results([])) == []
    assert verdicts(Results([sample(plan.FULL)])) == []


def test_latency_added_at_one_connection_is_compared_with_the_bound_and_with_the_router() -> None:
    samples = [
        sample(subject, case="unary-c1", of=load(p50_ms=p50_ms))
        for subject, p50_ms in ((plan.DIRECT, 0.1), (plan.ROUTER, 0.2), (plan.FULL, 0.3))
    ]
    by_what = found(Results(samples))
    bound, router = by_what["added p50 at c=1, ms"], by_what["added p50 at c=1, × vllm-router's"]
    assert (round(bound.measured.median, 6), bound.wanted, bound.holds) == (0.2, "≤ 0.25", True)
    assert (round(router.measured.median, 6), router.wanted, router.holds) == (2.0, "≤ 1.2", False)


def test_requests_and_cpu_are_compared_with_those_of_peers() -> None:
    samples = [
        sample(plan.FULL, of=load(requests=4000), cpu_s=0.8),
        sample(plan.ROUTER, of=load(requests=5000), cpu_s=0.8),
        sample(plan.SERVE, of=load(requests=100)),
    ]
    by_what = found(Results(samples))
    assert by_what["requests/s at c=16, × vllm-router's"].measured.median == 0.8
    assert not by_what["requests/s at c=16, × vllm-router's"].holds
    assert by_what["requests/s at c=16, × Ray Serve's with defaults"].measured.median == 40.0
    assert by_what["requests/s at c=16, × Ray Serve's with defaults"].holds
    assert round(by_what["CPU for 1,000 requests, × vllm-router's"].measured.median, 6) == 1.25
    assert by_what["CPU for 1,000 requests, × vllm-router's"].holds


def test_many_names_are_compared_with_few_by_their_cpu() -> None:
    samples = [
        sample(plan.FULL_10, case="names-c16", cpu_s=0.10),
        sample(plan.FULL_100K, case="names-c16", cpu_s=0.11),
    ]
    verdict = found(Results(samples))["CPU with 100,000 names at c=16, × with 10"]
    assert (round(verdict.measured.median, 6), verdict.holds) == (1.1, False)


def test_an_adapter_is_compared_with_its_base() -> None:
    samples = [sample(plan.FULL, case="adapter-c16", cpu_s=0.105), sample(plan.FULL, cpu_s=0.1)]
    verdict = found(Results(samples))["CPU of adapter-c16, × of unary-c16"]
    assert (round(verdict.measured.median, 6), verdict.holds) == (1.05, True)
