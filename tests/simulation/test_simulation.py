"""Seeds hold, runs are equal to the byte, and what failed once is run again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.plan import Plan, plan_of
from tests.simulation.planted import FAULTS
from tests.simulation.runner import run, run_seeds
from tests.simulation.shrink import shrink

SEEDS = int(os.environ.get("BROADSHEET_TEST_SEEDS", "10000"))
"""How many seeds are run. `make simulate` runs as many as asked for."""

PARTS = 8
"""Tests that the seeds are shared out to, so that they run on several cores."""

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.json"))


@pytest.mark.parametrize("part", range(PARTS))
def test_seeds_hold(part: int) -> None:
    first, end = (SEEDS * number // PARTS for number in (part, part + 1))
    done = 0
    for seed, outcome in run_seeds(first, end - first):
        assert outcome.violation is None, f"seed {seed}: {outcome.violation}; python -m tests.simulation --trace {seed}"
        done += 1
    assert done == end - first > 0


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_plan_that_failed_once_holds(path: Path) -> None:
    outcome = run(Plan.from_json(path.read_text(encoding="utf-8")))
    assert outcome.violation is None


def test_same_seed_runs_the_same_whatever_the_hash_seed() -> None:
    script = (
        "from tests.simulation.plan import plan_of; from tests.simulation.runner import run\n"
        "print(*[run(plan_of(seed), traced=True).trace_digest for seed in range(12)])"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_failing_plan_shrinks_to_what_it_takes() -> None:
    fault = next(fault for fault in FAULTS if fault.name == "answer_a_nack_with_the_same_snapshot")
    plan = plan_of(fault.seed)
    small = shrink(plan, plant=fault.planted)
    assert len(small.events) < len(plan.events)
    found = run(small, plant=fault.planted, traced=True)
    assert found.violation is not None
    assert found.violation.invariant == fault.invariant
    assert any("rejects" in line for line in found.trace)


def test_plan_survives_being_kept() -> None:
    plan = plan_of(7)
    assert Plan.from_json(plan.to_json()) == plan
