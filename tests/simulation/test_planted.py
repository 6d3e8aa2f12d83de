"""Each planted fault is caught from its seed on, and the code without it passes there."""

from __future__ import annotations

import pytest

from tests.simulation.plan import plan_of
from tests.simulation.planted import FAULTS, Fault, first_caught
from tests.simulation.runner import run

SEEDS_MAX = 30
"""Seeds from the recorded one on that may catch it: a change of the code changes what runs."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_fault_is_caught_at_its_seed(fault: Fault) -> None:
    seed = first_caught(fault, range(fault.seed, fault.seed + SEEDS_MAX))
    assert seed is not None, "find its seed again: python -m tests.simulation.planted"
    assert run(plan_of(seed)).violation is None
