"""What the registry costs when it is large, and how many changes it commits: `make bench-registry`.

    python -m tests.bench.bench_registry [--models 100] [--adapters 100000] [--calls 200] [--seconds 5]

Real control plane processes, asked over gRPC from this one. A control plane with a full catalog and one with an empty
catalog take turns, call by call, so that a noisy machine disturbs both; what counts is the ratio of their medians.
Printed beside each median: the lowest and the highest quartile. Databases wait for the disk at each commit.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import structlog

from controlplane import registration
from controlplane.auth import Role
from controlplane.store import Store
from controlplane.store_sqlite import database_url
from controlplane.store_write import WriteTransaction
from modelplane.v1 import adapter_pb2, model_pb2, registry_service_pb2_grpc
from modelplane.v1 import registry_service_pb2 as pb
from tests.adapter_directories import write_adapter
from tests.killed_replicas import Replica
from tests.postgres_server import running_server
from tests.registry_world import open_world, spec
from tests.stream.access_world import TOKENS, entries, write_tokens

PAGE_SIZE = 1000
ADAPTERS_PER_COMMIT = 5000
"""The fill's transactions: few enough commits to be quick, small enough to show progress."""

_METADATA = (("authorization", f"Bearer {TOKENS[Role.PUBLISHER]}"),)


async def fill(url: str, directory: Path, models: int, adapters: int) -> None:
    """Put a catalog into an empty store, with the statements that registering executes, but many to a commit."""
    async with open_world(url, directory) as world:
        for number in range(models):
            await world.register_model(f"model-{number}")
        registered = await world.register_adapter("model-0", "first")
        revision = registered.adapter.revision
    numbers = iter(range(1, adapters))
    async with Store.open(url, clock=lambda: datetime.now(UTC)) as store:
        while batch := list(itertools.islice(numbers, ADAPTERS_PER_COMMIT)):
            names = [(f"model-{number % models}", f"adapter-{number:07}") for number in batch]
            await store.write(_adapters(names, revision), method="RegisterAdapter", resource="models/-/adapters/-")
            tell(f"  … {batch[-1] + 1} of {adapters} adapters")


def _adapters(
    names: Sequence[tuple[str, str]], revision: adapter_pb2.AdapterRevision
) -> Callable[[WriteTransaction], Awaitable[None]]:
    async def work(transaction: WriteTransaction) -> None:
        for model_id, adapter_id in names:
            draft = registration.AdapterDraft(
                model_id=model_id,
                id=adapter_id,
                served_name=f"{model_id}:{adapter_id}",
                labels={},
                source=revision.source,
                weights=revision.weights,
                card=revision.card,
            )
            await transaction.put_adapter(registration.registered_adapter(None, draft, transaction.stamp), None)

    return work


@asynccontextmanager
async def control_plane(url: str, directory: Path) -> AsyncIterator[Replica]:
    """A control plane process on the database at `url`, with its files in `directory`, until the block ends."""
    write_tokens(directory / "tokens.yaml", entries())
    replica = Replica(url, directory, 0)
    task = asyncio.create_task(replica.run())
    try:
        while replica.registry is None:
            if task.done():
                task.result()
            await asyncio.sleep(0.05)
        yield replica
    finally:
        task.cancel()
        await asyncio.wait([task])


def stub(replica: Replica) -> registry_service_pb2_grpc.RegistryServiceAsyncStub:
    """To call a control plane that runs."""
    assert replica.registry is not None, "nobody ends it"
    return replica.registry


async def timed(call: Awaitable[object]) -> float:
    """Milliseconds that a call takes."""
    began = time.perf_counter()
    await call
    return (time.perf_counter() - began) * 1000


def spread(samples: Sequence[float]) -> str:
    """The median, and the quartiles around it."""
    low, middle, high = statistics.quantiles(samples, n=4)
    return f"{middle:.2f} ms ({low:.2f} to {high:.2f})"


async def compare_registering(full: Replica, empty: Replica, source: Path, calls: int) -> None:
    """RegisterAdapter of new adapters, on the full and on the empty catalog in turns."""
    await stub(empty).RegisterModel(pb.RegisterModelRequest(model_id="model-0", spec=spec()), metadata=_METADATA)
    samples: dict[Replica, list[float]] = {full: [], empty: []}
    for number in range(calls):
        request = pb.RegisterAdapterRequest(
            parent="models/model-0", adapter_id=f"new-{number}", source=model_pb2.Source(uri=source.as_uri())
        )
        for replica in (full, empty) if number % 2 else (empty, full):
            samples[replica].append(await timed(stub(replica).RegisterAdapter(request, metadata=_METADATA)))
    ratio = statistics.median(samples[full]) / statistics.median(samples[empty])
    tell(f"RegisterAdapter, full catalog      {spread(samples[full])}")
    tell(f"RegisterAdapter, empty catalog     {spread(samples[empty])}")
    tell(f"  ratio of medians                 {ratio:.2f}  (≤ 1.5 wanted)")


async def compare_pages(full: Replica, calls: int) -> None:
    """The first and the last whole page of ListAdapters over all models, in turns."""
    pages = [pb.ListAdaptersRequest(parent="models/-", page_size=PAGE_SIZE)]
    while True:
        page = await stub(full).ListAdapters(pages[-1], metadata=_METADATA)
        if not page.next_page_token:
            break
        request = pb.ListAdaptersRequest(parent="models/-", page_size=PAGE_SIZE, page_token=page.next_page_token)
        pages.append(request)
    # The very last one may hold only a few.
    first, last = pages[0], pages[max(0, len(pages) - 2)]
    samples: dict[str, list[float]] = {"first": [], "last": []}
    for _ in range(max(2, calls // 10)):
        samples["first"].append(await timed(stub(full).ListAdapters(first, metadata=_METADATA)))
        samples["last"].append(await timed(stub(full).ListAdapters(last, metadata=_METADATA)))
    ratio = statistics.median(samples["last"]) / statistics.median(samples["first"])
    tell(f"ListAdapters, first page of {PAGE_SIZE}   {spread(samples['first'])}")
    tell(f"ListAdapters, last whole page      {spread(samples['last'])}  ({len(pages)} pages)")
    tell(f"  ratio of medians                 {ratio:.2f}  (≤ 2 wanted)")


async def commits_per_second(replica: Replica, clients: int, seconds: float, numbers: Iterator[int]) -> float:
    """Models registered per second by `clients` callers, each of which waits for its answer.

    Each takes its id from `numbers`: an id that was registered before would commit nothing.
    """
    done = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < end:
            request = pb.RegisterModelRequest(model_id=f"commit-{next(numbers)}", spec=spec())
            answer = await stub(replica).RegisterModel(request, metadata=_METADATA)
            assert answer.created, "every call commits"
            done += 1

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return done / (time.perf_counter() - began)


async def compare_databases(urls: dict[str, str], directory: Path, seconds: float, rounds: int) -> None:
    """Commits per second on each database, by one client and then by 64."""
    for name, url in urls.items():
        async with control_plane(url, Path(tempfile.mkdtemp(dir=directory))) as replica:
            numbers = itertools.count()
            for clients in (1, 64):
                rates = [await commits_per_second(replica, clients, seconds, numbers) for _ in range(rounds)]
                tell(
                    f"{name}, {clients:2} clients".ljust(35)
                    + f"{statistics.median(rates):.0f} commits/s ({min(rates):.0f} to {max(rates):.0f})"
                )


def resident_mib(replica: Replica) -> float:
    """Memory of the process, in MiB."""
    return float(psutil.Process(replica.pid).memory_info().rss) / 2**20


async def measure(arguments: argparse.Namespace, directory: Path, postgres_url: str) -> None:
    """Print it all."""
    source = write_adapter(directory / "lora")
    full_url, empty_url, commits_url = (database_url(directory / f"{name}.db") for name in ("full", "empty", "commits"))
    full_directory, empty_directory = (Path(tempfile.mkdtemp(dir=directory)) for _ in range(2))
    tell(f"{arguments.models} models and {arguments.adapters} adapters:")
    await fill(full_url, directory, arguments.models, arguments.adapters)
    async with (
        control_plane(full_url, full_directory) as full,
        control_plane(empty_url, empty_directory) as empty,
    ):
        await compare_registering(full, empty, source, arguments.calls)
        await compare_pages(full, arguments.calls)
        tell(f"memory of the control plane        {resident_mib(full):.0f} MiB (empty: {resident_mib(empty):.0f} MiB)")
    await compare_databases({"SQLite": commits_url, "PostgreSQL": postgres_url}, directory, arguments.seconds, 3)


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="The registry on a large catalog, and its commits per second.")
    parser.add_argument("--models", type=int, default=100, help="default: 100")
    parser.add_argument("--adapters", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--calls", type=int, default=200, help="of RegisterAdapter on each catalog (200)")
    parser.add_argument("--seconds", type=float, default=5.0, help="each of three rounds of commits (5)")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as scratch, running_server(durable=True) as server:
        asyncio.run(measure(arguments, Path(scratch), server.new_database()))


if __name__ == "__main__":
    main()
