"""The tables of docs/ingress-benchmark.md. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tests.bench.ingress import plan
from tests.bench.ingress.shown.results import Measure, Results, Sample, spread
from tests.bench.ingress.shown.verdicts import cpu, p50, p99, requests, verdicts

_PATHS = (plan.DIRECT, plan.ROUTER, plan.LITELLM, plan.SERVE, plan.SERVE_HAPROXY, plan.FLOOR, plan.BARE, plan.FULL)
_CATALOGS = (plan.FULL_10, plan.FULL, plan.FULL_100K)
_MIB = 1024 * 1024

Cell = Callable[[Results, str, str], str]


def tables(results: Results) -> str:
    """All tables of a run. Medians over rounds; cells that were not measured are empty."""
    cases = [case for case in results.cases() if not case.startswith("names-")]
    catalogs = [case for case in results.cases() if case.startswith("names-")]
    parts = [
        *_wanted(results),
        *_table("requests/s, or streams/s", results, cases, _PATHS, _of(requests)),
        *_table("added p50 and p99, ms", results, cases, _PATHS, _added),
        *_table("CPU s for 1,000", results, cases, _PATHS, _of(cpu)),
        *_table("MiB after it", results, cases, _PATHS, _of(_memory)),
        *_table("requests/s; CPU s for 1,000; MiB", results, catalogs, _CATALOGS, _of(requests, cpu, _memory)),
    ]
    return "\n".join(parts)


def _wanted(results: Results) -> Iterator[str]:
    yield from _row(["wanted, with everything on", "bound", "median [lowest, highest]", "holds"])
    yield "|---|---|---|---|"
    for found in verdicts(results):
        yield from _row([found.what, found.wanted, found.measured.text(), "yes" if found.holds else "**no**"])
    yield ""


def _table(title: str, results: Results, cases: Sequence[str], subjects: Sequence[str], cell: Cell) -> Iterator[str]:
    measured = [name for name in subjects if any(results.of(case, name) for case in cases)]
    if not measured:
        return
    yield from _row([title, *measured])
    yield "|---" * (len(measured) + 1) + "|"
    for case in cases:
        yield from _row([case, *(cell(results, case, name) for name in measured)])
    yield ""


def _row(cells: Sequence[str]) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


def _of(*measures: Measure) -> Cell:
    def cell(results: Results, case: str, subject: str) -> str:
        found = [spread(results.values(case, subject, measure)) for measure in measures]
        return "; ".join(_number(each.median) for each in found if each is not None)

    return cell


def _added(results: Results, case: str, subject: str) -> str:
    if subject == plan.DIRECT:
        return _of(p50, p99)(results, case, subject)
    found = [spread(results.added(case, subject, measure)) for measure in (p50, p99)]
    return "; ".join(f"{each.median:+,.2f}" for each in found if each is not None)


def _memory(sample: Sample) -> float:
    return sample.memory_bytes / _MIB


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
