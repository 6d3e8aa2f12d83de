"""Real processes that are killed at a named point while changes are pushed.

`make test-push-faults` runs all of the points; these two are the narrowest.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres_server import PostgresServer
from tests.push_faults.scenarios import Scenario, run, scenarios

KILLED_AT = ("a change is durable, not answered", "a change is on disk, not in service")


@pytest.mark.parametrize(
    "scenario",
    [scenario for scenario in scenarios() if scenario.point in KILLED_AT and scenario.fault == "kill -9"],
    ids=lambda scenario: scenario.part.replace(" ", "-"),
)
async def test_a_process_that_is_killed_loses_nothing_and_nothing_goes_back(
    scenario: Scenario, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    outcome = await run(scenario, tmp_path, postgres_server)
    assert outcome.faults == []
    assert outcome.changes > 1
