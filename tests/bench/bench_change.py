"""What a change of one adapter costs agent and ingress replica, by the size of the catalog.

CPU time of this process, one part after the other, without disk, Ray and network. Each size is
measured in a process of its own. Run it with `python -m tests.bench.bench_change [SIZES]`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from rich.console import Console
from rich.table import Table

from tests.bench.output import spread
from tests.changed_plane import AgentPart, IngressPart, catalog, one_adapter_changes
from tests.raw import position
from tests.unit.dataplane.relay.relay_world import RelayWorld

SIZES = (1_000, 10_000, 100_000)
WARM_UP, CHANGES = 20, 200
WANTED_MS, WANTED_RATIO = {"agent": 10.0, "ingress": 15.0}, 1.3


class Measured(msgspec.Struct):
    """The results of one size. Times are CPU milliseconds for each change."""

    count: int
    agent: list[float]
    ingress: list[float]
    listing: list[float]
    """The first `GET /v1/models` after a change."""
    whole: float
    """The first snapshot, at the agent, in seconds: all entries are validated."""
    bytes_per_entry: dict[str, float]
    longest_gc: float


async def measure(count: int) -> Measured:
    """Measure one size."""
    relays = RelayWorld()
    agent, ingress = AgentPart(relays), IngressPart(relays)
    entries = catalog(count)
    at_start = _resident()
    began = time.process_time()
    held = await agent.start(position(entries), entries)
    whole = time.process_time() - began
    with_agent = _resident()
    await ingress.follow()
    await ingress.list_models()
    with_ingress = _resident()
    picks = random.Random(0).sample(range(count - 10), WARM_UP + CHANGES)  # any will do
    pauses = _gc_pauses()
    found: dict[str, list[float]] = {"agent": [], "ingress": []}
    for number, (at, change) in enumerate(one_adapter_changes(held, picks)):
        spent = await _cpu_ms(lambda at=at, change=change: agent.change(at, change)), await _cpu_ms(ingress.follow)  # type: ignore[misc]
        if number >= WARM_UP:
            found["agent"].append(spent[0])
            found["ingress"].append(spent[1])
    listing = []
    assert agent.snapshot is not None
    for at, change in one_adapter_changes(agent.snapshot, picks[:5]):
        await agent.change(at, change)
        await ingress.follow()
        listing.append(await _cpu_ms(ingress.list_models))
    return Measured(
        count=count,
        agent=found["agent"],
        ingress=found["ingress"],
        listing=listing,
        whole=whole,
        bytes_per_entry={
            "agent, relay and its copy at the agent": (with_agent - at_start) / count,
            "ingress replica, with the list of models": (with_ingress - with_agent) / count,
        },
        longest_gc=max(pauses, default=0.0),
    )


async def _cpu_ms(work: Callable[[], Awaitable[object]]) -> float:
    began = time.process_time()
    await work()
    return (time.process_time() - began) * 1e3


def _gc_pauses() -> list[float]:
    """The milliseconds of each pause of the garbage collector from now on."""
    pauses: list[float] = []
    began = 0.0

    def note(phase: str, info: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.thread_time()
        else:
            pauses.append((time.thread_time() - began) * 1e3)

    gc.callbacks.append(note)
    return pauses


def _resident() -> int:
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def show(results: list[Measured]) -> None:
    """Print what was measured, with what is wanted."""
    table = Table("entries", "agent", "ingress", "GET /v1/models after a change", "first snapshot", "longest GC pause")
    for found in results:
        table.add_row(
            f"{found.count:,}",
            spread(found.agent, "ms"),
            spread(found.ingress, "ms"),
            spread(found.listing, "ms", 0),
            f"{found.whole:.2f} s",
            f"{found.longest_gc:.1f} ms",
        )
    console = Console()
    console.print(table)
    for part, wanted in WANTED_MS.items():
        few, many = (statistics.median(getattr(found, part)) for found in (results[0], results[-1]))
        console.print(
            f"{part}: {many:.2f} ms (≤ {wanted:g} wanted), {results[-1].count:,} : {results[0].count:,} = "
            f"{many / few:.2f} (≤ {WANTED_RATIO} wanted)"
        )
    for what, used in results[-1].bytes_per_entry.items():
        console.print(f"{what}: {used:,.0f} bytes for each entry")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, metavar="SIZE", help="entries of a catalog")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if arguments.one is not None:
        sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(measure(arguments.one))))
        return
    results = []
    for size in arguments.sizes:
        command = [sys.executable, "-m", "tests.bench.bench_change", "--one", str(size)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)  # this program
        results.append(msgspec.json.decode(done.stdout, type=Measured))
    show(results)


if __name__ == "__main__":
    main()
