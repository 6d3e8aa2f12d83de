"""What is wanted of the ingress, beside what was measured. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.bench.ingress import plan
from tests.bench.ingress.shown.results import Measure, Results, Sample, Spread, spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One line of what is wanted."""

    what: str
    measured: Spread
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the median is within the bound."""
        is_enough = self.at_least is None or self.measured.median >= self.at_least
        return is_enough and (self.at_most is None or self.measured.median <= self.at_most)

    @property
    def wanted(self) -> str:
        """The bound, as it is printed."""
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


def p50(sample: Sample) -> float:
    """Median latency, in milliseconds."""
    return sample.load.p50_ms


def p99(sample: Sample) -> float:
    """99th percentile of latency, in milliseconds."""
    return sample.load.p99_ms


def requests(sample: Sample) -> float:
    """Requests, or streams, in a second."""
    return sample.requests_per_s


def chunks(sample: Sample) -> float:
    """Chunks in a second."""
    return sample.chunks_per_s


def cpu(sample: Sample) -> float:
    """CPU seconds for 1,000 requests."""
    return sample.cpu_s_per_1000


def verdicts(results: Results) -> list[Verdict]:
    """All that can be said about this run; what was not measured is left out."""
    return [*_latency(results), *_beside_peers(results), *_catalogs(results)]


def _latency(results: Results) -> Iterator[Verdict]:
    case = "unary-c1"
    added = results.added(case, plan.FULL, p50)
    yield from _verdict("added p50 at c=1, ms", added, at_most=0.25)
    router = results.added(case, plan.ROUTER, p50)
    if len(router) == len(added):
        times = [ours / theirs for ours, theirs in zip(added, router, strict=True) if theirs > 0]
        yield from _verdict("added p50 at c=1, × vllm-router's", times, at_most=1.2)


def _beside_peers(results: Results) -> Iterator[Verdict]:
    def times(case: str, peer: str, measure: Measure) -> list[float]:
        return results.ratios((case, plan.FULL), (case, peer), measure)

    unary = "unary-c16"
    yield from _verdict("requests/s at c=16, × vllm-router's", times(unary, plan.ROUTER, requests), at_least=1.0)
    for case, what, measure in (
        ("stream-50-c16", "streams/s of 50 chunks", requests),
        ("stream-500-c16", "chunks/s of streams of 500", chunks),
        ("stream-8k-c16", "chunks/s of 8 KB", chunks),
    ):
        yield from _verdict(f"{what}, × vllm-router's", times(case, plan.ROUTER, measure), at_least=1.2)
    yield from _verdict("CPU for 1,000 requests, × vllm-router's", times(unary, plan.ROUTER, cpu), at_most=1.3)
    for peer, what, at_least in (
        (plan.SERVE, "Ray Serve's with defaults", 40.0),
        (plan.SERVE_HAPROXY, "Ray Serve's with HAProxy", 8.0),
        (plan.LITELLM, "LiteLLM's proxy's", 10.0),
    ):
        yield from _verdict(f"requests/s at c=16, × {what}", times(unary, peer, requests), at_least=at_least)


def _catalogs(results: Results) -> Iterator[Verdict]:
    for case, c in (("names-c1", 1), ("names-c16", 16)):
        many = results.ratios((case, plan.FULL_100K), (case, plan.FULL_10), cpu)
        yield from _verdict(f"CPU with 100,000 names at c={c}, × with 10", many, at_most=1.05)
    for adapter, base in (
        ("adapter-c1", "unary-c1"),
        ("adapter-c16", "unary-c16"),
        ("adapter-64k-c16", "body-64k-c16"),
    ):
        times = results.ratios((adapter, plan.FULL), (base, plan.FULL), cpu)
        yield from _verdict(f"CPU of {adapter}, × of {base}", times, at_most=1.1)


def _verdict(
    what: str, values: Sequence[float], *, at_least: float | None = None, at_most: float | None = None
) -> Iterator[Verdict]:
    measured = spread(values)
    if measured is not None:
        yield Verdict(what=what, measured=measured, at_least=at_least, at_most=at_most)
