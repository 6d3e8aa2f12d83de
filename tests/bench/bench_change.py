"""What a change of one adapter costs agent and ingress replica, by the size of the catalog.

CPU time, without disk, Ray and network. Each size has a process of its own, and the processes take
turns, change by change: what else the machine does then weighs on all sizes alike. Run it with
`python -m tests.bench.bench_change [SIZES]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
import structlog
from rich.console import Console
from rich.table import Table

from tests.bench.output import spread
from tests.changed_plane import MODELS, AgentPart, IngressPart, catalog, one_adapter_changes
from tests.raw import position
from tests.unit.dataplane.relay.relay_world import RelayWorld

SIZES = (1_000, 10_000, 100_000)
WARM_UP, CHANGES = 20, 200
WANTED_MS, WANTED_RATIO = {"agent": 10.0, "ingress": 15.0}, 1.3


class Measured(msgspec.Struct):
    """The results of one size. Times are CPU milliseconds for each change."""

    count: int
    whole: float
    """The first snapshot, at the agent, in seconds: all entries are validated."""
    bytes_per_entry: dict[str, float]
    agent: list[float] = msgspec.field(default_factory=list)
    ingress: list[float] = msgspec.field(default_factory=list)
    listing: list[float] = msgspec.field(default_factory=list)
    """The first `GET /v1/models` after a change."""
    longest_gc: float = 0.0
    """Pause of the garbage collector, in milliseconds."""


async def measure(count: int) -> None:
    """Measure one size. For each line on standard input a change is made, and its times printed."""
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
    picks = random.Random(0).sample(range(count - MODELS), WARM_UP + CHANGES)  # any will do
    pauses = _gc_pauses()
    found = Measured(
        count=count,
        whole=whole,
        bytes_per_entry={
            "agent, relay and its copy at the agent": (with_agent - at_start) / count,
            "ingress replica, with the list of models": (with_ingress - with_agent) / count,
        },
    )
    for at, change in one_adapter_changes(held, picks):
        await asyncio.to_thread(sys.stdin.readline)
        agent_ms = await _cpu_ms(partial(agent.change, at, change))
        ingress_ms = await _cpu_ms(ingress.follow)
        sys.stdout.write(f"{agent_ms} {ingress_ms}\n")
        sys.stdout.flush()
    assert agent.snapshot is not None
    for at, change in one_adapter_changes(agent.snapshot, picks[:5]):
        await agent.change(at, change)
        await ingress.follow()
        found.listing.append(await _cpu_ms(ingress.list_models))
    found.longest_gc = max(pauses, default=0.0)
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
    sys.stdout.flush()


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


def in_turns(sizes: Sequence[int]) -> list[Measured]:
    """Let a process for each size make its changes, one after another."""
    with contextlib.ExitStack() as stack:
        parts = []
        for size in sizes:
            command = [sys.executable, "-m", "tests.bench.bench_change", "--one", str(size)]
            pipe = subprocess.PIPE
            part = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)  # this program
            parts.append(stack.enter_context(part))
        times = [_Times() for _ in parts]
        for number in range(WARM_UP + CHANGES):
            for part, spent in zip(parts, times, strict=True):
                agent_ms, ingress_ms = map(float, _asked(part, "\n").split())
                if number >= WARM_UP:
                    spent.agent.append(agent_ms)
                    spent.ingress.append(ingress_ms)
        results = [msgspec.json.decode(_asked(part, ""), type=Measured) for part in parts]
    for found, spent in zip(results, times, strict=True):
        found.agent, found.ingress = spent.agent, spent.ingress
    return results


@dataclass
class _Times:
    agent: list[float] = field(default_factory=list)
    ingress: list[float] = field(default_factory=list)


def _asked(part: subprocess.Popen[str], line: str) -> str:
    """The next line of a process, after it was sent one."""
    assert part.stdin is not None
    assert part.stdout is not None
    part.stdin.write(line)
    part.stdin.flush()
    answer = part.stdout.readline()
    if not answer:
        raise RuntimeError(f"a process has ended: {part.wait()}")
    return answer


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
        asyncio.run(measure(arguments.one))
        return
    show(in_turns(arguments.sizes))


if __name__ == "__main__":
    main()
