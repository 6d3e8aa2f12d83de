"""`python -m tests.simulation`: runs seeds, and shows a failing one as a small plan and a trace."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.simulation.plan import Plan, plan_of
from tests.simulation.runner import run, run_seeds
from tests.simulation.shrink import shrink

CORPUS = Path(__file__).parent / "corpus"
PROGRESS_S = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Returns 0: all seeds hold. 1: one failed, and is shown."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many seeds to run (default: 10000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--trace", type=int, metavar="SEED", help="run one seed, and print its trace")
    parser.add_argument("--plan", type=Path, metavar="FILE", help="run a plan of the corpus, and print its trace")
    parser.add_argument("--keep", action="store_true", help="write the small plan of a failing seed to the corpus")
    options = parser.parse_args(arguments)
    if options.trace is not None:
        return _show(plan_of(options.trace))
    if options.plan is not None:
        return _show(Plan.from_json(options.plan.read_text(encoding="utf-8")))
    return _search(options.first, options.seeds, keep=options.keep)


def _search(first: int, count: int, *, keep: bool) -> int:
    started_s = shown_s = time.process_time()
    steps = 0
    for done, (seed, outcome) in enumerate(run_seeds(first, count), start=1):
        steps += outcome.steps
        if outcome.violation is not None:
            _say(f"seed {seed}: {outcome.violation}\nmaking it smaller …")
            small = shrink(plan_of(seed))
            _show(small)
            if keep:
                path = CORPUS / f"seed-{seed}.json"
                path.write_text(small.to_json(), encoding="utf-8")
                _say(f"kept as {path.relative_to(Path.cwd())}")
            return 1
        now_s = time.process_time()
        if now_s - shown_s >= PROGRESS_S or done == count:
            shown_s, spent_s = now_s, now_s - started_s
            _say(f"{done} seeds hold, {steps} steps, {done / spent_s * 60:.0f} seeds a minute of CPU")
    return 0


def _show(plan: Plan) -> int:
    outcome = run(plan, traced=True)
    _say(plan.to_json())
    _say("\n".join(outcome.trace))
    _say(f"\nafter {outcome.steps} steps and {outcome.virtual_s:.1f} s: {outcome.violation or 'all invariants hold'}")
    return 0 if outcome.violation is None else 1


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
