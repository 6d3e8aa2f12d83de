"""What a change costs until it serves on a fleet: `make bench-push`.

    python -m tests.bench.bench_push [--planes N] [--sizes N …] [--changes N] [--curve N …]

Real control plane processes on SQLite, and data planes as real gRPC streams with a connection each,
in several client processes (`push_clients.py`): all on the cores of this machine. Control planes
with catalogs of different sizes take turns, change by change, so that a noisy machine disturbs all
alike; the figure to look at is the ratio of their medians.

A change is one `RegisterAdapter`. It counts from the call, so that registering is in the times too,
until a data plane has checked the change and acknowledged it. CPU is that of the control plane's
process, without what it takes when nothing changes. Bytes are those of its metric of sent messages,
and those that crossed the loopback device both ways, with the headers of TCP and IP.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import os
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import structlog

from broadsheet.v1 import model_pb2
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane.access.permissions import Role
from controlplane.store.databases.sqlite import database_url
from controlplane.store.store import Store
from tests import full_catalog
from tests.adapter_directories import write_adapter
from tests.bench.bench_registry import fill, stub
from tests.bench.output import percentiles, tell
from tests.control_planes import Replica, control_planes
from tests.stream.access_world import TOKENS

MODELS = 10
CLIENT_PROCESSES = 2
STORM_AT_ONCE = 1000
STOPPED_PLANES = 50
ANSWER_TIMEOUT_S = 300.0
IDLE_S = 5.0
"""How long the CPU of a control plane without changes is measured."""
QUIET_S = 0.5
"""After a change, for what the control plane writes about it."""

_METADATA = (("authorization", f"Bearer {TOKENS[Role.PUBLISHER]}"),)


class Clients:
    """One client process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls) -> Clients:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.push_clients"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=16 * 1024 * 1024,
            env={**os.environ, "GRPC_VERBOSITY": "ERROR"},
        )
        return cls(process)

    async def ask(self, order: Mapping[str, object]) -> None:
        assert self._process.stdin is not None, "it was opened with one"
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()

    async def answer(self, key: str, value: int | None = None) -> dict[str, Any]:
        """The next answer with this key, and this value if one is given. Others are dropped."""
        assert self._process.stdout is not None, "it was opened with one"
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while line := await self._process.stdout.readline():
                answer: dict[str, Any] = json.loads(line)
                if "failed" in answer:
                    raise RuntimeError(answer["failed"])
                if key in answer and value in (None, answer[key]):
                    return answer
        raise RuntimeError("a client process has ended")

    def stop(self) -> None:
        """It holds its streams and reads nothing, until it is killed."""
        self._process.send_signal(signal.SIGSTOP)

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


class World:
    """A control plane with a catalog, and the client processes of its data planes."""

    def __init__(self, replica: Replica, source: Path, opening: Mapping[str, object]) -> None:
        self._replica = replica
        self._source = source
        self._opening = opening
        self._numbers = itertools.count()
        self._clients: list[Clients] = []
        self._planes = 0
        self._process = psutil.Process(replica.pid)

    def rss_bytes(self) -> int:
        return int(self._process.memory_info().rss)

    def cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    async def sent_bytes(self) -> int:
        """Bytes of messages that the control plane has sent, by its own metric."""
        url = f"http://{self._replica.metrics_address}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=30).read().decode())
        lines = (line for line in text.splitlines() if line.startswith("broadsheet_controlplane_sent_bytes_total"))
        return round(sum(float(line.split()[-1]) for line in lines))

    async def open(self, planes: int, processes: int, *, first: int = 0, counted: bool = True) -> list[Clients]:
        """Connect data planes. Those that are not counted are not waited for later."""
        clients = [await Clients.start() for _ in range(min(processes, planes))]
        share, more = divmod(planes, len(clients))
        for number, client in enumerate(clients):
            count = share + (number < more)
            await client.ask({"open": {**self._opening, "first": first, "count": count}})
            first += count
        await asyncio.gather(*(client.answer("opened") for client in clients))
        if counted:
            self._clients, self._planes = clients, planes
        return clients

    async def change(self) -> list[float]:
        """Register an adapter. Milliseconds from the call to the answer of each data plane."""
        request = pb.RegisterAdapterRequest(
            parent="models/model-0",
            adapter_id=f"bench-{next(self._numbers)}",
            source=model_pb2.Source(uri=self._source.as_uri()),
        )
        began = time.monotonic()
        answer = await stub(self._replica).RegisterAdapter(request, metadata=_METADATA)
        revision = answer.catalog_revision
        answers = await asyncio.gather(*(client.answer("active", revision) for client in self._clients))
        return [(at - began) * 1000 for answer in answers for at in answer["times"]]

    async def storm(self) -> list[float]:
        """Close all streams and open them again. Milliseconds until each is current."""
        for client in self._clients:
            await client.ask({"storm": STORM_AT_ONCE})
        answers = await asyncio.gather(*(client.answer("storm") for client in self._clients))
        return [took for answer in answers for took in answer["storm"]]

    async def close(self) -> None:
        for client in self._clients:
            await client.kill()
        self._clients = []

    @property
    def planes(self) -> int:
        return self._planes


async def _read_state(url: str) -> dict[str, object]:
    """Where the catalog is, and the state of its digest, so that no stream has to get all of it."""
    async with Store.open(url) as store:
        head, digest = await full_catalog.digest_of(store)
    return {
        "store_uid": head.position.store_uid,
        "revision": head.position.revision,
        "digest": head.position.digest.hex(),
        "state": digest.to_bytes().hex(),
        "entry_count": digest.entry_count,
    }


@asynccontextmanager
async def world(directory: Path, adapters: int) -> AsyncIterator[World]:
    """A control plane with so many adapters, and no data plane yet."""
    own = Path(tempfile.mkdtemp(dir=directory))
    url = database_url(own / "registry.db")
    await fill(url, own, MODELS, adapters)
    state = await _read_state(url)
    source = write_adapter(own / "lora")
    arguments = ("--metrics-listen", "127.0.0.1:0", "--connections-max", "16384")
    async with control_planes(url, own, arguments=arguments) as (replica,):
        opening = {**state, "address": replica.address, "token": TOKENS[Role.DATA_PLANE]}
        running = World(replica, source, opening)
        try:
            yield running
        finally:
            await running.close()


class Measured:
    """What changes took and cost in one world."""

    def __init__(self) -> None:
        self.latencies_ms: list[float] = []
        self.medians_ms: list[float] = []
        self.slowest_ms: list[float] = []
        self.cpu_ms: list[float] = []
        self.sent: list[float] = []
        self.loopback: list[float] = []

    async def add(self, at: World, idle_cores: float) -> None:
        """Make one change, and take down what it took, per data plane."""
        cpu_s, sent, crossed = at.cpu_s(), await at.sent_bytes(), _loopback_bytes()
        began = time.monotonic()
        latencies = await at.change()
        await asyncio.sleep(QUIET_S)
        idle_s = (time.monotonic() - began) * idle_cores
        self.cpu_ms.append(max(0.0, at.cpu_s() - cpu_s - idle_s) * 1000 / at.planes)
        self.loopback.append((_loopback_bytes() - crossed) / at.planes)
        self.sent.append((await at.sent_bytes() - sent) / at.planes)
        self.latencies_ms.extend(latencies)
        self.medians_ms.append(statistics.median(latencies))
        self.slowest_ms.append(max(latencies))

    def line(self) -> str:
        return (
            f"{percentiles(self.latencies_ms, 'ms', 0) if len(self.latencies_ms) > 1 else ''}"
            f", last {_middle(self.slowest_ms, 0)} ms; CPU {_middle(self.cpu_ms, 2)} ms, sent"
            f" {statistics.median(self.sent):.0f} B, on the wire {statistics.median(self.loopback):.0f} B"
        )


def _loopback_bytes() -> int:
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


def _middle(samples: Sequence[float], digits: int) -> str:
    return f"{statistics.median(samples):.{digits}f} ({min(samples):.{digits}f} to {max(samples):.{digits}f})"


async def idle_cores(at: World) -> float:
    """Cores that a control plane takes while nothing changes."""
    before = at.cpu_s()
    await asyncio.sleep(IDLE_S)
    return (at.cpu_s() - before) / IDLE_S


async def compare_sizes(arguments: argparse.Namespace, directory: Path) -> None:
    """The same changes at catalogs of each size, in turns; a storm; stopped readers."""
    async with _worlds(directory, arguments.sizes) as worlds:
        idle: dict[int, float] = {}
        for size, at in worlds.items():
            before = at.rss_bytes()
            await at.open(arguments.planes, CLIENT_PROCESSES)
            memory = (at.rss_bytes() - before) / arguments.planes / 1000
            idle[size] = await idle_cores(at)
            tell(f"{size} entries: {arguments.planes} streams, {memory:.0f} kB each, {idle[size]:.2f} cores when idle")
            await at.change()
        measured = {size: Measured() for size in worlds}
        for _ in range(arguments.changes):
            for size, at in worlds.items():
                await measured[size].add(at, idle[size])
        for size, samples in measured.items():
            tell(f"{size} entries: {samples.line()}")
        few, many = (statistics.median(measured[size].medians_ms) for size in (min(worlds), max(worlds)))
        tell(f"  ratio of medians, {max(worlds)} to {min(worlds)} entries: {many / few:.2f} (≤ 1.3 wanted)")
        for size, at in worlds.items():
            await _measure_storm(size, at)
        smallest = min(worlds)
        await _compare_stopped(worlds[smallest], arguments, idle[smallest])


@asynccontextmanager
async def _worlds(directory: Path, sizes: Sequence[int]) -> AsyncIterator[dict[int, World]]:
    if not sizes:
        yield {}
        return
    async with world(directory, sizes[0]) as first, _worlds(directory, sizes[1:]) as others:
        yield {sizes[0]: first, **others}


async def _measure_storm(size: int, at: World) -> None:
    sent = await at.sent_bytes()
    took = await at.storm()
    tell(
        f"{size} entries: {at.planes} reconnects at once, all current in {max(took) / 1000:.1f} s"
        f" (≤ 5 wanted), {percentiles(took, 'ms', 0)}; {await at.sent_bytes() - sent} bytes of entries sent again"
    )


async def _compare_stopped(at: World, arguments: argparse.Namespace, idle: float) -> None:
    """The same changes before and while some readers have stopped."""
    before, stopped = Measured(), Measured()
    for _ in range(arguments.changes):
        await before.add(at, idle)
    readers = await at.open(STOPPED_PLANES, 1, first=arguments.planes, counted=False)
    try:
        for reader in readers:
            reader.stop()
        for _ in range(arguments.changes):
            await stopped.add(at, idle)
    finally:
        for reader in readers:
            await reader.kill()
    tell(f"before any reader stopped: {before.line()}")
    tell(f"{STOPPED_PLANES} stopped readers: {stopped.line()}")
    ratio = statistics.median(stopped.medians_ms) / statistics.median(before.medians_ms)
    tell(f"  ratio of medians: {ratio:.2f} (1 wanted)")


async def show_curve(arguments: argparse.Namespace, directory: Path) -> None:
    """The same changes for one data plane, and for more and more."""
    for planes in arguments.curve:
        async with world(directory, 1000) as at:
            before = at.rss_bytes()
            await at.open(planes, max(CLIENT_PROCESSES, planes // 1000))
            memory = (at.rss_bytes() - before) / planes / 1000
            idle = await idle_cores(at)
            await at.change()
            measured = Measured()
            for _ in range(arguments.changes):
                await measured.add(at, idle)
            tell(f"{planes} data planes: {measured.line()}; {memory:.0f} kB a stream, {idle:.2f} cores when idle")


async def measure(arguments: argparse.Namespace, directory: Path) -> None:
    tell(f"{psutil.cpu_count()} cores for everything; load {os.getloadavg()[0]:.1f} before it began")
    if arguments.sizes:
        await compare_sizes(arguments, directory)
    await show_curve(arguments, directory)


def main() -> None:
    parser = argparse.ArgumentParser(description="From a commit to the data planes: times and costs.")
    parser.add_argument("--planes", type=int, default=1000, help="data planes of each catalog (1000)")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 10_000, 100_000], help="adapters")
    parser.add_argument("--changes", type=int, default=10, help="at each point (10)")
    parser.add_argument("--curve", type=int, nargs="*", default=[1, 10, 100, 1000, 4000], help="data planes")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(measure(arguments, Path(scratch)))


if __name__ == "__main__":
    main()
