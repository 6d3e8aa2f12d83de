"""How long a data plane takes to start, and an ingress replica to be replaced."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from rich.table import Table

from tests.bench.model_load import processes
from tests.bench.output import add_comparison, tell
from tests.e2e.stack import START_S, Stack

SETTLE_S = 5.0
"""After this time a start has left no work to be done, in seconds."""


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


_REVISION = re.compile(r'^broadsheet_ingress_snapshot_revision{replica="(.+)"} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Replacement:
    """How long it took to replace an ingress replica that was killed, in seconds."""

    whole_s: float
    """From the kill until the new replica was ready."""
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
    """The ingress replica that a new connection reaches, and the catalog revision that it uses.

    The revision is -1 while it has none.
    """
    async with http.get("/metrics") as answer:
        ((replica, revision),) = _REVISION.findall(await answer.text())
    return replica, float(revision)


async def compare_starts(stacks: Mapping[str, Stack], rounds: int, table: Table) -> None:
    """Start the data planes in turns, and kill an ingress replica of each.

    The last of `stacks` is left running.
    """
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
        (
            "ingress replica replaced",
            {name: [timed.whole_s for timed in of] for name, of in replacements.items()},
        ),
        (
            "of it first answer to ready",
            {name: [timed.loading_s for timed in of] for name, of in replacements.items()},
        ),
    )
