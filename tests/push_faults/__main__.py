"""Runs every fault and prints the table: `make test-push-faults`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table

from tests.bench.output import tell
from tests.postgres_server import PostgresServer, running_server
from tests.push_faults.scenarios import Outcome, Scenario, run, scenarios


async def run_all(chosen: list[Scenario], at_a_time: int, directory: Path, postgres: PostgresServer) -> bool:
    """Run scenarios and print their table. Whether everything held."""
    gate = asyncio.Semaphore(at_a_time)

    async def one(scenario: Scenario) -> Outcome:
        async with gate:
            try:
                outcome = await run(scenario, directory, postgres)
            except Exception as error:
                outcome = Outcome(0, 0.0, [f"{type(error).__name__}: {error}"])
            tell(f"  … {scenario.part}: {scenario.point}, {scenario.fault}: {'; '.join(outcome.faults) or 'held'}")
            return outcome

    outcomes = await asyncio.gather(*map(one, chosen))
    table = Table("part", "point", "fault", "snapshots served", "current after", "lost, gone back, not current")
    for scenario, outcome in zip(chosen, outcomes, strict=True):
        table.add_row(
            scenario.part,
            scenario.point,
            scenario.fault,
            str(outcome.changes),
            f"{outcome.converged_s:.1f} s",
            "; ".join(outcome.faults) or "none",
        )
    Console(width=150).print(table)
    return not any(outcome.faults for outcome in outcomes)


def main() -> int:
    parser = argparse.ArgumentParser(description="Faults of real processes while changes are pushed.")
    parser.add_argument("--only", default="", help="part of the name of the part, the point or the fault")
    parser.add_argument("--at-a-time", type=int, default=3, help="scenarios at the same time (3)")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    chosen = [item for item in scenarios() if arguments.only in f"{item.part}: {item.point}, {item.fault}"]
    directory = Path(tempfile.mkdtemp(prefix="bs-push-faults-"))
    tell(f"{len(chosen)} scenarios; logs in {directory}")
    with running_server(durable=True) as postgres:
        return 0 if asyncio.run(run_all(chosen, arguments.at_a_time, directory, postgres)) else 1


if __name__ == "__main__":
    sys.exit(main())
