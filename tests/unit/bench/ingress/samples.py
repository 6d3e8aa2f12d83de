"""Samples as the benchmark of the ingress makes them."""

from __future__ import annotations

from tests.bench.ingress import plan
from tests.bench.ingress.shown.results import Sample
from tests.bench.ingress.wrk import Load


def load(*, requests: int = 1_000, duration_s: float = 1.0, p50_ms: float = 1.0, errors: int = 0) -> Load:
    """What wrk has seen."""
    return Load(requests=requests, duration_s=duration_s, read_bytes=0, p50_ms=p50_ms, p99_ms=2 * p50_ms, errors=errors)


def sample(
    subject: str, number: int = 0, *, case: str = "unary-c16", cpu_s: float = 0.1, of: Load | None = None
) -> Sample:
    """A sample of a case of the plan."""
    return Sample(
        round=number,
        subject=subject,
        case=case,
        answer=next(found.answer for found in plan.CASES if found.name == case),
        load=of or load(),
        cpu_s=cpu_s,
        memory_bytes=1024 * 1024,
        engine_cpu_s=0.05,
        wrk_cpu_s=0.02,
    )
