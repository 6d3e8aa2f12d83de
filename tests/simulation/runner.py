"""Runs plans."""

from __future__ import annotations

import contextlib
import gc
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.simulation.plan import Plan, plan_of
from tests.simulation.trace import Trace
from tests.simulation.violation import Violation
from tests.simulation.virtual.clock import Clock
from tests.simulation.virtual.environment import simulated
from tests.simulation.world import World

Plant = Callable[[], contextlib.AbstractContextManager[None]]
"""Puts a fault into the code under test, for the length of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run has ended."""

    violation: Violation | None
    steps: int
    virtual_s: float
    trace: tuple[str, ...]
    """Empty unless it was asked for."""

    @property
    def trace_digest(self) -> str:
        """Equal for equal runs."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


def run(plan: Plan, *, traced: bool = False, plant: Plant = contextlib.nullcontext) -> Outcome:
    """Run a plan to its end, or to the first violation.

    An exception of the code under test counts as a violation, by its type.
    """
    clock = Clock(f"seed {plan.seed}")
    trace = Trace(clock, on=traced)
    violation: Violation | None = None
    with simulated(clock), plant():
        try:
            World(plan, clock, trace).run()
        except Violation as error:
            violation = error
        except Exception as error:
            violation = Violation("no part fails", f"{type(error).__name__}: {error}")
            violation.__cause__ = error
    return Outcome(violation=violation, steps=clock.steps, virtual_s=clock.now_s, trace=tuple(trace.lines))


RUNS_PER_COLLECTION = 200


def run_seeds(first: int, count: int) -> Iterator[tuple[int, Outcome]]:
    """Run the plans of these seeds, one after the other."""
    # A run leaves cycles of a few hundred kilobytes. To look for them all the time costs a fifth.
    # What was loaded before stays: it is left out.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for number, seed in enumerate(range(first, first + count), start=1):
            yield seed, run(plan_of(seed))
            if number % RUNS_PER_COLLECTION == 0:
                gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
