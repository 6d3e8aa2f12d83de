"""What many models cost: those that are only registered, and those that are in use. `make
bench-models`.

    python -m tests.bench.bench_models [--models 10000] [--rounds 5] [--asked 200] [--curve 0 10 25
    50 100]

Both planes run on this machine as users run them; all models are SIMULATED. Measured, in this
order:

- Start: from the start of the data plane to the first 200 of `/readyz`, with the snapshot on disk,
  with 10 models and with all of them in turns; and how much of that lies between the ingress's
  first answer and that.
- Ingress replica: one of the two is killed while the rest runs. From that until the one that Ray
  Serve starts in its place holds the snapshot, and so is ready; and how much of that lies between
  its first answer and that.
- Rest: `/v1/models`, whole and in pages; what Ray Serve runs; what each process costs while nobody
asks anything.
- Asked: models in random order, some at a time. Each goes away again after `IDLE_S` without a
request.
- Curve: what Ray Serve's controller costs with N models in use, which get a request every few
seconds.

CPU is in seconds per second, so 1 is a whole core.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from dataplane.agent.deployments import SYSTEM_APPLICATIONS
from tests.e2e.stack import START_S, Stack
from tests.full_catalog import fill, model_draft

FEW = 10
IDLE_S = 5
"""`downscale_to_zero_delay` of the models that are asked; those of the curve stay until the end."""
ASK_EVERY_S = 5.0
"""Between two requests to a model of the curve."""
REST_S = 20.0
"""How long CPU times are taken."""
LIST_CALLS = 300
PAGE = 100
WAKES = 5
"""Models that are woken at each point of the curve, one after the other."""
GONE_TIMEOUT_S = 180.0
SETTLE_S = 5.0
"""What a start leaves to do is done by then."""

PARTS: Mapping[str, str] = {
    "Serve's controller": "ray::ServeController",
    "agent": "ray::ServeReplica:broadsheet-agent",
    "ingress": "ray::ServeReplica:broadsheet-ingress",
    "relay": "ray::RelayActor",
}
"""The data plane's processes, by the beginning of the title that Ray gives them."""


def name_of(number: int) -> str:
    return f"many-{number:05}"


def draft_of(number: int, *, idle_s: int) -> registration.ModelDraft:
    """The registration of a SIMULATED model with that `downscale_to_zero_delay`."""
    model_spec = model_pb2.ModelSpec(engine=model_pb2.Engine(kind=model_pb2.Engine.KIND_SIMULATED))
    model_spec.scaling.max_replicas = 1
    model_spec.scaling.target_ongoing_requests = 100
    model_spec.scaling.downscale_to_zero_delay.FromSeconds(idle_s)
    model_spec.admission.cold_start_timeout.FromSeconds(600)
    return model_draft(name_of(number), model_spec)


async def make_catalog(stack: Stack, count: int, staying: int) -> None:
    """Fill the database of a control plane that does not run; the last `staying` models do not go
    away when idle."""
    path = stack.directory / "controlplane" / "registry.db"
    path.parent.mkdir(parents=True)
    drafts = (draft_of(number, idle_s=IDLE_S if number < count - staying else 36_000) for number in range(count))
    async with Store.open(database_url(path), clock=lambda: datetime.now(UTC)) as store:
        await fill(store, drafts)


# --- start ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """How long one start took, in seconds."""

    whole_s: float
    """From the start of the data plane's process to the first 200 of `/readyz`."""
    ingress_s: float
    """From the ingress's first answer of any kind to that."""


async def timed_start(stack: Stack) -> Start:
    began = time.perf_counter()
    stack.dataplane.start()
    first: float | None = None
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
        while time.perf_counter() - began < START_S:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"{stack.url}/readyz") as answer:
                    now = time.perf_counter()
                    first = first or now
                    if answer.status == 200:
                        return Start(whole_s=now - began, ingress_s=now - first)
            await asyncio.sleep(0.01)
    raise RuntimeError(f"not ready within {START_S:g} s; see {stack.directory}")


# --- ingress replica ------------------------------------------------------------------------------

_REVISION = re.compile(r'^broadsheet_ingress_snapshot_revision{replica="(.+)"} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Replacement:
    """How long it took until another ingress replica stood in for one that was killed, in
    seconds."""

    whole_s: float
    """From the kill until the new one was ready."""
    loading_s: float
    """From its first answer of any kind to that."""


async def timed_replacement(stack: Stack) -> Replacement:
    """Kill an ingress replica of a data plane that has just become ready."""
    async with aiohttp.ClientSession(stack.url, connector=aiohttp.TCPConnector(force_close=True)) as http:
        await asyncio.sleep(SETTLE_S)
        victim, *others = processes(stack)["ingress"]
        known: set[str] = set()
        while len(known) <= len(others):
            known.add((await revision_of_any(http))[0])
        began = time.perf_counter()
        victim.kill()
        first: float | None = None
        while time.perf_counter() - began < START_S:
            with contextlib.suppress(aiohttp.ClientError):
                replica, revision = await revision_of_any(http)
                if replica not in known:
                    now = time.perf_counter()
                    first = first or now
                    if revision >= 0:
                        return Replacement(whole_s=now - began, loading_s=now - first)
            await asyncio.sleep(0.01)
    raise RuntimeError(f"no other ingress replica within {START_S:g} s; see {stack.directory}")


async def revision_of_any(http: aiohttp.ClientSession) -> tuple[str, float]:
    """The ingress replica that a new connection gets to, and the catalog revision that it decides
    by; -1: none."""
    async with http.get("/metrics") as answer:
        ((replica, revision),) = _REVISION.findall(await answer.text())
    return replica, float(revision)


# --- rest -----------------------------------------------------------------------------------------


def processes(stack: Stack) -> dict[str, list[psutil.Process]]:
    """The processes of each part of the data plane, and of the control plane."""
    assert stack.controlplane.popen is not None
    found = {part: stack.processes(beginning) for part, beginning in PARTS.items()}
    found["control plane"] = [psutil.Process(stack.controlplane.popen.pid)]
    return found


async def cpu_shares(stack: Stack, seconds: float) -> dict[str, float]:
    """CPU seconds per second of each part, over all of its processes."""
    parts = processes(stack)

    def used() -> dict[str, float]:
        return {part: sum(sum(one.cpu_times()[:2]) for one in ones) for part, ones in parts.items()}

    before, began = used(), time.perf_counter()
    await asyncio.sleep(seconds)
    after, passed = used(), time.perf_counter() - began
    return {part: (after[part] - before[part]) / passed for part in parts}


async def list_latencies(http: aiohttp.ClientSession, query: str) -> list[float]:
    """Milliseconds that each of many `GET /v1/models` took, one after the other over one
    connection."""
    taken = []
    for _ in range(LIST_CALLS):
        began = time.perf_counter()
        async with http.get(f"/v1/models{query}") as answer:
            await answer.read()
            assert answer.status == 200
        taken.append((time.perf_counter() - began) * 1000)
    return taken


# --- asking ---------------------------------------------------------------------------------------


async def ask(http: aiohttp.ClientSession, model: str) -> float:
    """Ask a model; the seconds until it has answered.

    Raises:
        RuntimeError: it has not answered.
    """
    body = {"model": model, "messages": [{"role": "user", "content": "Are you there?"}]}
    began = time.perf_counter()
    async with http.post("/v1/chat/completions", json=body) as answer:
        text = await answer.text()
    if answer.status != 200 or model not in text:
        raise RuntimeError(f"{model} was answered {answer.status}: {text[:300]}")
    return time.perf_counter() - began


async def ask_all(http: aiohttp.ClientSession, models: Sequence[str], at_a_time: int) -> list[float]:
    """Ask each of `models`, so many at a time; the seconds that each took."""
    left, taken = iter(models), []

    async def worker() -> None:
        for model in left:
            taken.append(await ask(http, model))

    async with asyncio.TaskGroup() as group:
        for _ in range(at_a_time):
            group.create_task(worker())
    return taken


@contextlib.asynccontextmanager
async def in_use(http: aiohttp.ClientSession, models: Sequence[str]) -> AsyncIterator[None]:
    """Ask each of `models` every ASK_EVERY_S while the block runs."""

    async def keep_asking() -> None:
        while True:
            for model in models:
                await ask(http, model)
                await asyncio.sleep(ASK_EVERY_S / len(models))
            await asyncio.sleep(0)

    if not models:
        yield
        return
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(keep_asking())
        yield
        asking.cancel()


async def applications(stack: Stack) -> Mapping[str, int]:
    """Replicas of each model's application, in whatever state."""
    found: Mapping[str, int] = await asyncio.to_thread(stack.look, "all_replicas")
    return {name: count for name, count in found.items() if name not in SYSTEM_APPLICATIONS}


async def wait_for_count(stack: Stack, count: int) -> float:
    """Wait until no more than `count` applications are there; how many seconds that took."""
    began = time.perf_counter()
    while len(await applications(stack)) > count:
        if time.perf_counter() - began > GONE_TIMEOUT_S:
            raise RuntimeError(f"there were more than {count} applications after {GONE_TIMEOUT_S:g} s")
        await asyncio.sleep(1)
    return time.perf_counter() - began


# --- the parts of the output ----------------------------------------------------------------------


def spread(samples: Sequence[float], unit: str, digits: int = 2) -> str:
    """The median, and in brackets the lowest and the highest."""
    return f"{statistics.median(samples):.{digits}f} {unit} ({min(samples):.{digits}f} to {max(samples):.{digits}f})"


def percentiles(samples: Sequence[float], unit: str, digits: int = 1) -> str:
    cuts = statistics.quantiles(samples, n=100, method="inclusive")
    return f"p50 {cuts[49]:.{digits}f} {unit}, p99 {cuts[98]:.{digits}f} {unit}"


async def compare_starts(stacks: Mapping[str, Stack], rounds: int, table: Table) -> None:
    """Start the data planes in turns, and kill an ingress replica of each. The last one of `stacks`
    runs afterwards."""
    starts: dict[str, list[Start]] = {name: [] for name in stacks}
    replacements: dict[str, list[Replacement]] = {name: [] for name in stacks}
    last = list(stacks)[-1]
    for number in range(rounds):
        for name, stack in stacks.items():
            starts[name].append(await timed_start(stack))
            replacements[name].append(await timed_replacement(stack))
            tell(f"  with {name} models: {starts[name][-1]}, {replacements[name][-1]}")
            if name != last or number < rounds - 1:
                await asyncio.to_thread(stack.dataplane.stop)
    add_comparison(
        table,
        ("data plane started", {name: [start.whole_s for start in of] for name, of in starts.items()}),
        (
            "of it the ingress, first answer to ready",
            {name: [start.ingress_s for start in of] for name, of in starts.items()},
        ),
    )
    add_comparison(
        table,
        ("ingress replica replaced", {name: [one.whole_s for one in of] for name, of in replacements.items()}),
        ("of it first answer to ready", {name: [one.loading_s for one in of] for name, of in replacements.items()}),
    )


_Samples = tuple[str, Mapping[str, Sequence[float]]]
"""What was measured, and the seconds that it took, by the number of models."""


def add_comparison(table: Table, whole: _Samples, part: _Samples) -> None:
    """Rows on what took how long with few and with many models, and how much of it a part took."""
    (what, whole_s), (part_what, part_s) = whole, part
    for name in whole_s:
        table.add_row(f"{what}, {name} models", spread(whole_s[name], "s"))
        table.add_row(f"  {part_what}", spread(part_s[name], "s"))
    few, many = map(statistics.median, whole_s.values())
    table.add_row("  ratio of medians", f"{many / few:.2f} (≤ 1.5 wanted)")


async def measure_rest(stack: Stack, http: aiohttp.ClientSession, table: Table) -> None:
    whole, pages = await list_latencies(http, ""), await list_latencies(http, f"?limit={PAGE}")
    table.add_row("/v1/models, whole", f"{percentiles(whole, 'ms')} (p99 ≤ 50 ms wanted)")
    table.add_row(f"/v1/models, a page of {PAGE}", f"{percentiles(pages, 'ms')} (p99 ≤ 50 ms wanted)")
    there = await applications(stack)
    table.add_row("applications of models, replicas", f"{len(there)}, {sum(there.values())} (0 wanted)")
    await asyncio.sleep(10)  # what the start and the lists have left
    for part, share in (await cpu_shares(stack, REST_S)).items():
        table.add_row(f"CPU at rest: {part}", f"{share:.3f}")
    for part, ones in processes(stack).items():
        table.add_row(f"memory: {part}", f"{sum(one.memory_info().rss for one in ones) / 2**20:.0f} MiB")


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
    """One point of the curve: `staying` are in use already."""
    async with in_use(http, staying):
        await asyncio.sleep(5)
        status_s = [float(await asyncio.to_thread(stack.look, "status_s")) for _ in range(3)]
        await asyncio.sleep(5)
        shares = await cpu_shares(stack, REST_S)
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
        *("serve.status(), s", "one more answers after, s", "memory free, GiB"),
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
            await timed_start(stack)  # now the snapshot comes over the stream; afterwards it is on the disk
            await asyncio.to_thread(stack.dataplane.stop)
        await compare_starts(stacks, arguments.rounds, table)
        *_, stack = stacks.values()
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(stack.url, timeout=timeout) as http:
            await measure_rest(stack, http, table)
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


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


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
