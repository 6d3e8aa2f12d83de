"""Compare ways to reach an engine (`make bench-ingress`).

docs/ingress-benchmark.md says how to read what is printed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.bench.ingress import plan, rounds
from tests.bench.ingress.changes import changing
from tests.bench.ingress.processes import StartError, exit_when_told
from tests.bench.ingress.shown import markdown, plot, report
from tests.bench.ingress.shown.results import Results, Sample
from tests.bench.ingress.subjects import ENVIRONMENTS
from tests.bench.ingress.wrk import LoadError
from tests.bench.output import tell

_PATHS, _CHANGES = "paths", "changes"
_ROUNDS, _SECONDS = 5, 2
_QUICK_ROUNDS, _QUICK_SECONDS = 2, 1


def main() -> int:
    arguments = _arguments()
    exit_when_told()
    began = time.monotonic()
    found_wrong = False
    try:
        if _PATHS in arguments.part:
            found_wrong = _paths(arguments)
        if _CHANGES in arguments.part:
            found_wrong |= changing.run(times=arguments.rounds, seconds=arguments.seconds)
    except (StartError, LoadError, rounds.WrongAnswer) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    tell(f"done in {time.monotonic() - began:.0f} s")
    return int(found_wrong)


def _paths(arguments: argparse.Namespace) -> bool:
    """Run the plan, and show what was measured, also if the run is interrupted.

    Returns whether an answer was wrong. A bound that does not hold is not wrong.
    """
    cases = [case for case in plan.CASES if case.name in arguments.case]
    chosen = plan.chosen(cases, (plan.DIRECT, *arguments.subject))
    names = sorted({name for _, subjects in chosen for name in subjects})
    samples: list[Sample] = []
    try:
        with rounds.started(names) as up:
            for sample in rounds.run(up, chosen, arguments.rounds, arguments.seconds):
                samples.append(sample)
    except (KeyboardInterrupt, SystemExit, rounds.WrongAnswer, LoadError):
        if samples:
            tell("interrupted; until then:")
            _show(samples, arguments)
        raise
    return _show(samples, arguments)


def _show(samples: list[Sample], arguments: argparse.Namespace) -> bool:
    results = Results(samples)
    found = report.report(results, rounds=arguments.rounds, seconds=arguments.seconds)
    report.show(found, results)
    report.write(found, arguments.json)
    arguments.plot.write_text(plot.svg(results), encoding="utf-8")
    arguments.tables.write_text(markdown.tables(results), encoding="utf-8")
    tell(f"written: {arguments.json}, {arguments.plot} and {arguments.tables}")
    return bool(results.errors())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ingress", description=__doc__)
    cases, subjects = [case.name for case in plan.CASES], list(plan.SUBJECTS)
    parser.add_argument("--part", nargs="+", choices=[_PATHS, _CHANGES], default=[_PATHS, _CHANGES])
    parser.add_argument(
        "--subject", nargs="+", choices=subjects, default=subjects, metavar="SUBJECT", help=_of(subjects)
    )
    parser.add_argument("--case", nargs="+", choices=cases, metavar="CASE", help=_of(cases))
    parser.add_argument("--rounds", type=_positive, help=f"how many ({_ROUNDS})")
    parser.add_argument("--seconds", type=_positive, help=f"of each measurement ({_SECONDS})")
    parser.add_argument(
        "--quick", action="store_true", help=f"{_QUICK_ROUNDS} rounds of {_QUICK_SECONDS} s, and fewer cases"
    )
    parser.add_argument("--json", type=Path, default=ENVIRONMENTS / "ingress.json", help="where results are written")
    parser.add_argument("--plot", type=Path, default=ENVIRONMENTS / "ingress.svg", help="where the plot is written")
    parser.add_argument("--tables", type=Path, default=ENVIRONMENTS / "ingress.md", help="where tables are written")
    arguments = parser.parse_args()
    is_quick = arguments.quick
    arguments.rounds = arguments.rounds or (_QUICK_ROUNDS if is_quick else _ROUNDS)
    arguments.seconds = arguments.seconds or (_QUICK_SECONDS if is_quick else _SECONDS)
    arguments.case = arguments.case or [case.name for case in plan.CASES if case.is_quick or not is_quick]
    return arguments


def _of(names: list[str]) -> str:
    return f"some of: {', '.join(names)}"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {number}, at least 1 is needed")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
