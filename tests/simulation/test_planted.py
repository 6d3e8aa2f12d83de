"""Each planted fault is caught at its seed, and the code without it passes that seed."""

from __future__ import annotations

import pytest

from tests.simulation.plan import plan_of
from tests.simulation.planted import FAULTS, Fault
from tests.simulation.runner import run


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_fault_is_caught_at_its_seed(fault: Fault) -> None:
    plan = plan_of(fault.seed)
    assert run(plan).violation is None
    found = run(plan, plant=fault.planted).violation
    assert found is not None
    assert found.invariant == fault.invariant
