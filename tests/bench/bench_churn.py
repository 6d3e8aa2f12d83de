"""A day of changes in ten minutes, and what that does to memory: `make bench-churn`.

    python -m tests.bench.bench_churn [--minutes 10] [--adapters 200] [--clients 4] [--seed 0]

Both planes run on this machine as users run them. Several clients change a catalog without pause:
adapters are registered anew, deleted and come back, cards and routes change, keys come and go, and
the catalog is rolled back now and then. Others ask `/v1/models` and a SIMULATED model meanwhile.
The catalog stays about as large as it is, so the memory should, too.

Memory is the resident memory of each process, sampled every few seconds. The slope is that of the
least squares line through the samples of the second half: the first half fills caches and pools.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table

from broadsheet import AsyncClient, BroadsheetError
from tests.adapter_directories import write_adapter
from tests.bench.model_load import processes
from tests.bench.output import percentiles, tell
from tests.e2e.stack import Stack

SAMPLE_S = 5.0
TELL_S = 60.0
MODEL = "models/base"
ROUTES = 10
ROLLBACK_WITHIN = 50
"""Revisions that a rollback of the catalog goes back at most."""
SPEC = {
    "engine": {"kind": "KIND_SIMULATED", "args": {"tokens_per_second": 1000}},
    "scaling": {"min_replicas": 1},
    "lora": {"max_adapters": 4, "max_rank": 16},
}


class Churn:
    """Changes a catalog at random, in a way that keeps its size."""

    def __init__(self, client: AsyncClient, sources: Sequence[Path], adapters: int, chosen: random.Random) -> None:
        self._client = client
        self._sources = sources
        self._adapters = adapters
        self._random = chosen
        self._keys = 0
        self.revision = 0
        """The newest catalog revision that a change has made."""
        self.made: Counter[str] = Counter()
        """Changes by kind."""
        self.refused: Counter[str] = Counter()
        """By reason: another client was faster, or there was nothing to change."""
        self._kinds: Mapping[str, tuple[int, Callable[[], Awaitable[int]]]] = {
            "adapters registered": (500, self._register),
            "adapters deleted": (150, self._delete),
            "adapters undeleted": (150, self._undelete),
            "cards changed": (100, self._describe),
            "routes changed": (90, self._route),
            "keys made and revoked": (5, self._key),
            "catalogs rolled back": (5, self._roll_back),
        }

    async def start(self) -> None:
        """Make the catalog."""
        await self._client.register_model("base", spec=SPEC)
        for number in range(self._adapters):
            await self._client.register_adapter(MODEL, f"a-{number}", source=self._sources[0])

    async def change(self) -> None:
        """Make one change."""
        kinds = list(self._kinds)
        kind = self._random.choices(kinds, weights=[self._kinds[name][0] for name in kinds])[0]
        try:
            revision = await self._kinds[kind][1]()
        except BroadsheetError as error:
            self.refused[error.reason] += 1
        else:
            self.made[kind] += 1
            self.revision = max(self.revision, revision)

    def _adapter_id(self) -> str:
        return f"a-{self._random.randrange(self._adapters)}"

    async def _register(self) -> int:
        source = self._random.choice(self._sources)
        return (await self._client.register_adapter(MODEL, self._adapter_id(), source=source)).catalog_revision

    async def _delete(self) -> int:
        return (await self._client.delete_adapter(f"{MODEL}/adapters/{self._adapter_id()}")).catalog_revision

    async def _undelete(self) -> int:
        return (await self._client.undelete_adapter(f"{MODEL}/adapters/{self._adapter_id()}")).catalog_revision

    async def _describe(self) -> int:
        card = {"description": f"changed {self._random.random()}"}
        return (await self._client.update_model(MODEL, card=card)).catalog_revision

    async def _route(self) -> int:
        spec = {"targets": [{"resource": MODEL, "weight": self._random.randrange(1, 100)}]}
        name = f"route-{self._random.randrange(ROUTES)}"
        return (await self._client.set_route(name, spec=spec)).catalog_revision

    async def _key(self) -> int:
        self._keys += 1
        name = f"key-{self._keys}-{self._random.randrange(10**9)}"
        await self._client.create_api_key(name, allowed_served_names=["*"])
        return (await self._client.revoke_api_key(f"apiKeys/{name}")).catalog_revision

    async def _roll_back(self) -> int:
        to_revision = max(1, self.revision - self._random.randrange(1, ROLLBACK_WITHIN))
        return (await self._client.rollback_catalog(to_revision)).catalog_revision


class Memory:
    """Resident memory of each part, in MiB."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._began = time.monotonic()
        self.samples: dict[str, list[tuple[float, float]]] = defaultdict(list)
        """Minutes since it began, and MiB."""

    async def watch(self) -> None:
        """Take samples until cancelled."""
        while True:
            minutes = (time.monotonic() - self._began) / 60
            for part, found in processes(self._stack).items():
                mib = sum(process.memory_info().rss for process in found) / 2**20
                self.samples[part].append((minutes, mib))
            await asyncio.sleep(SAMPLE_S)

    def rows(self, changes_per_minute: float) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for part, samples in self.samples.items():
            half = samples[len(samples) // 2 :]
            slope = statistics.linear_regression(*zip(*half, strict=True)).slope
            rows.append(
                (
                    part,
                    f"{samples[0][1]:.0f}",
                    f"{half[0][1]:.0f}",
                    f"{samples[-1][1]:.0f}",
                    f"{max(mib for _, mib in samples):.0f}",
                    f"{slope:+.2f}",
                    f"{slope / changes_per_minute * 1e6:+.0f}" if changes_per_minute else "",
                )
            )
        return rows


async def ask(http: aiohttp.ClientSession, key: str, latencies: list[float]) -> None:
    """Ask for the models and for a completion, in turns, until cancelled."""
    headers = {"authorization": f"Bearer {key}"}
    body = {"model": "base", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    while True:
        async with http.get("/v1/models", headers=headers) as answer:
            await answer.read()
            assert answer.status == 200, answer.status
        began = time.perf_counter()
        async with http.post("/v1/chat/completions", json=body, headers=headers) as answer:
            await answer.read()
            assert answer.status == 200, answer.status
        latencies.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.2)


async def _change_until(churn: Churn, deadline: float) -> None:
    while time.monotonic() < deadline:
        await churn.change()


async def _tell_progress(churn: Churn, deadline: float) -> None:
    while True:
        await asyncio.sleep(TELL_S)
        tell(f"  … {churn.made.total()} changes, {max(0, deadline - time.monotonic()) / 60:.0f} minutes to go")


async def measure(arguments: argparse.Namespace, stack: Stack, screen: Console) -> None:
    sources = [write_adapter(stack.directory / f"lora-{number}", rank=rank) for number, rank in enumerate((4, 8, 16))]
    async with AsyncClient(stack.controlplane_address) as client, aiohttp.ClientSession(stack.url) as http:
        churn = Churn(client, sources, arguments.adapters, random.Random(arguments.seed))
        key = (await client.create_api_key("asker", allowed_served_names=["*"])).key
        await churn.start()
        await client.wait_until_serving(MODEL)
        before = await _entries(client)
        memory, latencies = Memory(stack), list[float]()
        deadline = time.monotonic() + arguments.minutes * 60
        beside = [
            asyncio.create_task(task)
            for task in (memory.watch(), ask(http, key, latencies), _tell_progress(churn, deadline))
        ]
        await asyncio.gather(*(_change_until(churn, deadline) for _ in range(arguments.clients)))
        revision = (await client.register_model("last", spec=SPEC | {"scaling": {}})).catalog_revision
        outcome = await client.wait_for_revision(revision, timeout_s=120)
        for task in beside:
            if task.done():
                task.result()
            task.cancel()
        tell(f"{churn.made.total()} changes: {dict(churn.made)}; refused: {dict(churn.refused)}")
        tell(f"active everywhere at the end: {outcome.active_everywhere}; entries: {before}, {await _entries(client)}")
        tell(f"requests meanwhile: {len(latencies)}, {percentiles(latencies, 'ms')}, none failed")
    table = Table("process", "start", "half", "end", "most", "slope, MiB/min", "bytes/change")
    for row in memory.rows(churn.made.total() / arguments.minutes):
        table.add_row(*row)
    screen.print(table)


async def _entries(client: AsyncClient) -> int:
    async for summary in client.list_snapshots():
        return summary.entry_count
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--adapters", type=int, default=200)
    parser.add_argument("--clients", type=int, default=4, help="that make changes at the same time")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="bs-churn-"))
    tell(f"{os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f}; logs in {directory}")
    stack = Stack(directory)
    stack.start()
    try:
        asyncio.run(measure(arguments, stack, Console(width=120)))
    finally:
        stack.stop()


if __name__ == "__main__":
    main()
