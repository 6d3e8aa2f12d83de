"""What many models cost: those that are only registered, and those in use. `make bench-models`.

    python -m tests.bench.bench_models [--models 10000] [--rounds 5] [--asked 200] [--curve 0 10 50]

Both planes run on this machine as users run them. All models are SIMULATED. Measured, in this
order:

- Start: from the start of the data plane to the first 200 of `/readyz`, with the snapshot on disk,
  with 10 models and with all of them in turns; and which part of that lies between the ingress's
  first answer and the 200.
- Ingress replica: one of two is killed while the other serves. From the kill until the replica that
  Ray Serve starts in its place holds the snapshot, and so is ready; and which part of that lies
  between its first answer and then.
- Idle: `/v1/models`, whole and in pages; the applications that Ray Serve runs; what each process
  costs while there are no requests.
- Asked: models in random order, some at a time. Each is deleted again after `IDLE_S` without a
  request.
- Curve: what Ray Serve's controller costs with N models in use, each with a request every few
  seconds.

CPU is in seconds per second, so 1 is a whole core.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import psutil
from rich.console import Console
from rich.table import Table

from broadsheet.v1 import model_pb2
from controlplane.catalog import registration
from controlplane.store.databases.sqlite import database_url
from controlplane.store.store import Store
from tests.bench.model_load import (
    IDLE_S,
    PARTS,
    applications,
    ask,
    ask_all,
    cpu_shares,
    in_use,
    list_latencies,
    processes,
    wait_for_count,
)
from tests.bench.output import percentiles, tell
from tests.bench.starts import compare_starts, timed_start
from tests.e2e.stack import Stack
from tests.full_catalog import fill, model_draft

FEW = 10
CPU_SAMPLE_S = 20.0
"""How long CPU times are measured, in seconds."""
PAGE = 100
WAKES = 5
"""Models that are woken at each point of the curve, in sequence."""


def name_of(number: int) -> str:
    return f"many-{number:05}"


def draft_of(number: int, *, idle_s: int) -> registration.ModelDraft:
    """The registration of a SIMULATED model with this `downscale_to_zero_delay`."""
    model_spec = model_pb2.ModelSpec(engine=model_pb2.Engine(kind=model_pb2.Engine.KIND_SIMULATED))
    model_spec.scaling.max_replicas = 1
    model_spec.scaling.target_ongoing_requests = 100
    model_spec.scaling.downscale_to_zero_delay.FromSeconds(idle_s)
    model_spec.admission.cold_start_timeout.FromSeconds(600)
    return model_draft(name_of(number), model_spec)


async def make_catalog(stack: Stack, count: int, staying: int) -> None:
    """Fill the database of a control plane that does not run.

    Args:
        stack: Of the control plane.
        count: How many models there are.
        staying: How many of them, the last ones, stay deployed when idle.
    """
    path = stack.directory / "controlplane" / "registry.db"
    path.parent.mkdir(parents=True)
    drafts = (draft_of(number, idle_s=IDLE_S if number < count - staying else 36_000) for number in range(count))
    async with Store.open(database_url(path), clock=lambda: datetime.now(UTC)) as store:
        await fill(store, drafts)


async def measure_idle(stack: Stack, http: aiohttp.ClientSession, table: Table) -> None:
    whole, pages = await list_latencies(http, ""), await list_latencies(http, f"?limit={PAGE}")
    table.add_row("/v1/models, whole", f"{percentiles(whole, 'ms')} (p99 ≤ 50 ms wanted)")
    table.add_row(f"/v1/models, a page of {PAGE}", f"{percentiles(pages, 'ms')} (p99 ≤ 50 ms wanted)")
    deployed = await applications(stack)
    table.add_row("applications of models, replicas", f"{len(deployed)}, {sum(deployed.values())} (0 wanted)")
    await asyncio.sleep(10)  # the start and the lists leave work that is still to be done
    for part, share in (await cpu_shares(stack, CPU_SAMPLE_S)).items():
        table.add_row(f"CPU while idle: {part}", f"{share:.3f}")
    for part, found in processes(stack).items():
        table.add_row(f"memory: {part}", f"{sum(process.memory_info().rss for process in found) / 2**20:.0f} MiB")


async def measure_asked(
    stack: Stack, http: aiohttp.ClientSession, models: Sequence[str], at_a_time: int, table: Table
) -> None:
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, len(await applications(stack)))
            await asyncio.sleep(2)

    watching = asyncio.create_task(watch())
    began = time.perf_counter()
    taken = await ask_all(http, models, at_a_time)
    passed = time.perf_counter() - began
    watching.cancel()
    await asyncio.wait([watching])
    table.add_row(f"{len(models)} asked, {at_a_time} at a time", f"all answered, in {passed:.0f} s")
    table.add_row("  cold start and answer", percentiles(taken, "s"))
    table.add_row("  applications at most", str(most))
    table.add_row("  applications all gone after", f"{await wait_for_count(stack, 0):.0f} s")


async def measure_point(
    stack: Stack, http: aiohttp.ClientSession, staying: Sequence[str], others: Iterator[str]
) -> list[str]:
    """One point of the curve, as a row of the table.

    Args:
        stack: The data plane.
        http: To its ingress.
        staying: Models that are in use already.
        others: Models that are woken.
    """
    async with in_use(http, staying):
        await asyncio.sleep(5)
        status_s = [float(await asyncio.to_thread(stack.look, "status_s")) for _ in range(3)]
        await asyncio.sleep(5)
        shares = await cpu_shares(stack, CPU_SAMPLE_S)
        wakes = []
        for _ in range(WAKES):
            wakes.append(await ask(http, next(others)))
            await asyncio.sleep(1)
        await wait_for_count(stack, len(staying))
    return [
        str(len(staying)),
        f"{shares[next(iter(PARTS))]:.2f}",
        f"{shares['agent']:.2f}",
        f"{shares['ingress']:.2f}",
        f"{shares['relay']:.2f}",
        f"{statistics.median(status_s):.2f}",
        f"{statistics.median(wakes):.1f} ({min(wakes):.1f} to {max(wakes):.1f})",
        f"{psutil.virtual_memory().available / 2**30:.1f}",
    ]


async def measure(arguments: argparse.Namespace, directory: Path, screen: Console) -> None:
    stacks: dict[str, Stack] = {}
    for count in (FEW, arguments.models):
        (directory / str(count)).mkdir()
        stacks[f"{count:,}"] = Stack(directory / str(count))
    table = Table("what", "result", title=f"{arguments.models:,} models")
    curve = Table(
        *("in use", "controller, CPU", "agent, CPU", "ingress, CPU", "relay, CPU"),
        *("serve.status(), s", "another answers after, s", "memory free, GiB"),
        title="Models in use at the same time",
    )
    staying = max(arguments.curve)
    draw = random.Random(arguments.seed)
    asked = [name_of(number) for number in range(arguments.models - staying)]
    draw.shuffle(asked)
    try:
        for stack, count in zip(stacks.values(), (FEW, arguments.models), strict=True):
            await make_catalog(stack, count, min(staying, count - 1))
            stack.controlplane.start()
            await timed_start(stack)  # this time the snapshot comes over the stream; afterwards it is on disk
            await asyncio.to_thread(stack.dataplane.stop)
        await compare_starts(stacks, arguments.rounds, table)
        *_, stack = stacks.values()
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(stack.url, timeout=timeout) as http:
            await measure_idle(stack, http, table)
            screen.print(table)
            await measure_asked(stack, http, asked[: arguments.asked], arguments.at_a_time, table)
            screen.print(table)
            others = iter(asked[arguments.asked :])
            used: list[str] = []
            for count in arguments.curve:
                more = [name_of(arguments.models - staying + number) for number in range(len(used), count)]
                await ask_all(http, more, 10)
                used += more
                row = await measure_point(stack, http, used, others)
                tell("  " + "  ".join(row))
                curve.add_row(*row)
    finally:
        for stack in stacks.values():
            stack.stop()
    screen.print(table)
    screen.print(curve)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5, help="starts with few and with many models")
    parser.add_argument("--asked", type=int, default=200, help="models that are asked in random order")
    parser.add_argument("--at-a-time", type=int, default=20, help="how many of them at a time")
    parser.add_argument("--curve", type=int, nargs="+", default=[0, 10, 25, 50, 100], help="models in use, rising")
    parser.add_argument("--seed", type=int, default=0, help="of the random order")
    arguments = parser.parse_args()
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    directory = Path(tempfile.mkdtemp(prefix="bs-models-"))
    tell(f"{os.cpu_count()} cores, load before: {load}; logs in {directory}")
    asyncio.run(measure(arguments, directory, Console(width=140)))


if __name__ == "__main__":
    main()
