"""What a run shows: a table for each case, what is wanted beside it, and a file with all of it."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from tests.bench.ingress import answers, plan
from tests.bench.ingress.shown import verdicts
from tests.bench.ingress.shown.results import Measure, Results, Sample, Spread, spread
from tests.bench.ingress.subjects import ENVIRONMENTS

_WIDTH = 150
"""Columns of the tables, also where the output is no terminal."""
_MIB = 1024 * 1024


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where and with what a run was made."""

    date: str
    cores: int
    python: str
    versions: dict[str, str]
    """Of the peers and of what the ingress runs on."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One subject in one case, over all rounds."""

    case: str
    subject: str
    added_p50_ms: Spread | None
    added_p99_ms: Spread | None
    requests_per_s: Spread
    chunks_per_s: Spread | None
    of_direct: Spread | None
    """Requests a second, as a share of those of the engine asked directly."""
    cpu_s_per_1000: Spread
    memory_mib: float
    errors: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run, as it is written to a file."""

    machine: Machine
    rounds: int
    seconds: int
    lines: list[Line]
    wanted: list[dict[str, object]]
    samples: tuple[Sample, ...]


def machine() -> Machine:
    """This machine. Its name is left out."""
    packages = {name: version(name) for name in ("uvicorn", "uvloop", "httptools", "ray")}
    return Machine(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        versions={**packages, **_peers()},
    )


def _peers() -> dict[str, str]:
    found = {}
    for name in ("vllm-router", "litellm"):
        for folder in ENVIRONMENTS.glob(f"{name}/lib/*/site-packages/{name.replace('-', '_')}-*.dist-info"):
            found[name] = folder.name.removesuffix(".dist-info").rpartition("-")[2]
    return found


def report(results: Results, *, rounds: int, seconds: int) -> Report:
    """The report of a run."""
    wanted = [
        {"what": found.what, "wanted": found.wanted, "measured": found.measured, "holds": found.holds}
        for found in verdicts.verdicts(results)
    ]
    lines = [line(results, case, subject) for case in results.cases() for subject in results.subjects(case)]
    return Report(
        machine=machine(), rounds=rounds, seconds=seconds, lines=lines, wanted=wanted, samples=results.samples
    )


def line(results: Results, case: str, subject: str) -> Line:
    """The line of a subject in a case."""
    samples = results.of(case, subject)

    def over_rounds(measure: Measure) -> Spread:
        found = spread([measure(sample) for sample in samples])
        assert found is not None, "it was measured"
        return found

    added = [
        spread(results.added(case, subject, measure)) if subject != plan.DIRECT else None
        for measure in (verdicts.p50, verdicts.p99)
    ]
    return Line(
        case=case,
        subject=subject,
        added_p50_ms=added[0],
        added_p99_ms=added[1],
        requests_per_s=over_rounds(verdicts.requests),
        chunks_per_s=over_rounds(verdicts.chunks) if answers.chunks_of(samples[0].answer) else None,
        of_direct=spread(results.ratios((case, subject), (case, plan.DIRECT), verdicts.requests)),
        cpu_s_per_1000=over_rounds(verdicts.cpu),
        memory_mib=max(sample.memory_bytes for sample in samples) / _MIB,
        errors=sum(sample.load.errors for sample in samples),
    )


def write(found: Report, path: Path) -> None:
    """Write a report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


def show(found: Report, results: Results) -> None:
    """Print the tables, what is wanted, and what went wrong."""
    console = Console(width=_WIDTH)
    for case in results.cases():
        console.print(_table(case, [line for line in found.lines if line.case == case]))
    table = Table("wanted (ours: with everything on)", "bound", "measured", "holds", title="What is wanted")
    for verdict in verdicts.verdicts(results):
        table.add_row(verdict.what, verdict.wanted, verdict.measured.text(), "yes" if verdict.holds else "NO")
    console.print(table)
    console.print(_helpers(results))
    for sample in results.errors():
        console.print(
            f"{sample.subject}, {sample.case}, round {sample.round + 1}: {sample.load.errors} errors, "
            f"{sample.load.requests} answers"
        )


def _helpers(results: Results) -> str:
    """What the load generator and the mock engine used, where a subject stood between them."""
    between = [sample for sample in results.samples if sample.subject != plan.DIRECT]
    wrk = max((sample.wrk_cpu_s / sample.load.duration_s for sample in between), default=0.0)
    engine = max((sample.engine_cpu_s / sample.load.duration_s for sample in between), default=0.0)
    return (
        f"With a subject between them, wrk used at most {wrk:.2f} of a core, and the engine's processes "
        f"{engine:.2f} of two. The rows of {plan.DIRECT} are the ceiling of both."
    )


def _table(case: str, lines: list[Line]) -> Table:
    is_stream = any(line.chunks_per_s for line in lines)
    rate = ["streams/s", "chunks/s"] if is_stream else ["requests/s"]
    table = Table("", "added p50, ms", "added p99, ms", *rate, "× direct", "CPU s/1,000", "MiB", title=case)
    for line in lines:
        chunks = [f"{line.chunks_per_s.median:,.0f}" if line.chunks_per_s else ""] if is_stream else []
        table.add_row(
            line.subject,
            _text(line.added_p50_ms, 3),
            _text(line.added_p99_ms, 2),
            line.requests_per_s.text(0),
            *chunks,
            _text(line.of_direct, 2),
            line.cpu_s_per_1000.text(3),
            f"{line.memory_mib:,.0f}",
        )
    return table


def _text(found: Spread | None, digits: int) -> str:
    return found.text(digits) if found is not None else ""
