"""What a large registry costs, and how many changes it commits: `make bench-registry`.

    python -m tests.bench.bench_registry [--models N] [--adapters N] [--calls N] [--seconds S]
        [--applied N]

Real control plane processes, asked over gRPC from this one. A control plane with a full catalog and
one with an empty catalog take turns, call by call, so that a noisy machine disturbs both. The
figure to look at is the ratio of their medians. Beside each median it prints the lowest and the
highest quartile, and beside a ratio the lowest and the highest of the rounds. Databases wait for
the disk at each commit. etcd, which does much less for a commit, shows what the machine can do. The
same load generator (`unary_load.py`) asks both, over one connection each.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import structlog

from broadsheet.v1 import model_pb2, registry_service_pb2_grpc
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane.access.permissions import Role
from controlplane.adapters.verification import AdapterVerifier
from controlplane.catalog.spec import MAX_RANK
from controlplane.store.databases.sqlite import database_url
from controlplane.store.store import Store
from tests import full_catalog
from tests.adapter_directories import write_adapter
from tests.bench.unary_load import Calls, Load, Measured
from tests.control_planes import Replica, control_planes
from tests.etcd_server import PUT, EtcdServer, put_request, running_etcd
from tests.postgres_server import running_server
from tests.registry_world import spec
from tests.stream.access_world import TOKENS

PAGE_SIZE = 1000
ROUNDS = 3

ETCD = "etcd"
ETCD_VALUE_BYTES = 400
"""About as large as the snapshot entry of the models here."""

Call = Callable[[], Awaitable[None]]

_METADATA = (("authorization", f"Bearer {TOKENS[Role.PUBLISHER]}"),)


async def fill(url: str, directory: Path, models: int, adapters: int) -> None:
    """Fill an empty store with what registering the whole catalog would have left there."""
    verifier = AdapterVerifier(size_bytes_max=1024 * 1024, allowed_sources=())
    try:
        source = model_pb2.Source(uri=write_adapter(directory / "filled").as_uri())
        weights = await verifier.verify(source, model_pb2.ModelSpec(lora=model_pb2.Lora(max_rank=MAX_RANK)))
    finally:
        verifier.close()

    def drafts() -> Iterator[full_catalog.Draft]:
        for number in range(models):
            yield full_catalog.model_draft(f"model-{number}", spec())
        for number in range(adapters):
            yield full_catalog.adapter_draft(f"model-{number % models}", f"adapter-{number:07}", source, weights)

    def progress(count: int) -> None:
        tell(f"  … {count} of {models + adapters} registered")

    async with Store.open(url) as store:
        await full_catalog.fill(store, drafts(), on_progress=progress)
        head, digest = await full_catalog.digest_of(store)
        assert digest.entry_count == head.entry_count == models + adapters, "everything is there"


def stub(replica: Replica) -> registry_service_pb2_grpc.RegistryServiceAsyncStub:
    """A channel to a running control plane."""
    assert replica.registry is not None, "nobody ends it"
    return replica.registry


async def timed(call: Awaitable[object]) -> float:
    """How long a call takes, in milliseconds."""
    began = time.perf_counter()
    await call
    return (time.perf_counter() - began) * 1000


def spread(samples: Sequence[float]) -> str:
    """The median, and the quartiles around it."""
    low, middle, high = statistics.quantiles(samples, n=4)
    return f"{middle:.2f} ms ({low:.2f} to {high:.2f})"


async def compare(calls: dict[str, Call], count: int, *, ratio_max: float) -> None:
    """Time two calls in turns, `count` times each in every round; the first may be the slower."""
    (slower, _), (faster, _) = calls.items()
    rounds: list[dict[str, list[float]]] = []
    for _ in range(ROUNDS):
        samples: dict[str, list[float]] = {slower: [], faster: []}
        for number in range(count):
            # The second call may find caches warm, so they change places.
            for name in (slower, faster) if number % 2 else (faster, slower):
                samples[name].append(await timed(calls[name]()))
        rounds.append(samples)
    for name in calls:
        tell(name.ljust(35) + spread([sample for samples in rounds for sample in samples[name]]))
    ratios = [statistics.median(samples[slower]) / statistics.median(samples[faster]) for samples in rounds]
    between = f"{min(ratios):.2f} to {max(ratios):.2f}"
    tell(
        f"  ratio of medians, {ROUNDS} rounds".ljust(35)
        + f"{statistics.median(ratios):.2f} ({between}; ≤ {ratio_max:g} wanted)"
    )


async def compare_registering(full: Replica, empty: Replica, source: Path, count: int) -> None:
    """RegisterAdapter of new adapters, on the full and on the empty catalog."""
    request = pb.RegisterModelRequest(model_id="model-0", spec=spec())
    assert not (await stub(full).RegisterModel(request, metadata=_METADATA)).created, "it is there"
    assert (await stub(empty).RegisterModel(request, metadata=_METADATA)).created, "it is new"

    def registering(replica: Replica) -> Call:
        numbers = itertools.count()

        async def register() -> None:
            request = pb.RegisterAdapterRequest(
                parent="models/model-0", adapter_id=f"new-{next(numbers)}", source=model_pb2.Source(uri=source.as_uri())
            )
            answer = await stub(replica).RegisterAdapter(request, metadata=_METADATA)
            assert answer.created, "every call commits"

        return register

    calls = {
        "RegisterAdapter, full catalog": registering(full),
        "RegisterAdapter, empty catalog": registering(empty),
    }
    await compare(calls, count, ratio_max=1.5)


async def compare_pages(full: Replica, count: int) -> None:
    """The first and the last whole page of ListAdapters over all models."""
    requests = [pb.ListAdaptersRequest(parent="models/-", page_size=PAGE_SIZE)]
    while token := (await stub(full).ListAdapters(requests[-1], metadata=_METADATA)).next_page_token:
        requests.append(pb.ListAdaptersRequest(parent="models/-", page_size=PAGE_SIZE, page_token=token))

    def listing(request: pb.ListAdaptersRequest) -> Call:
        async def page() -> None:
            await stub(full).ListAdapters(request, metadata=_METADATA)

        return page

    calls = {
        # The very last page may hold only a few.
        f"ListAdapters, page {len(requests) - 1} of {len(requests)}": listing(requests[max(0, len(requests) - 2)]),
        f"ListAdapters, first page of {PAGE_SIZE}": listing(requests[0]),
    }
    await compare(calls, count, ratio_max=2)


def registering_models(replica: Replica) -> Calls:
    """RegisterModel of new models, each with the same spec."""
    # Registering an id again would commit nothing.
    numbers = itertools.count()
    common = pb.RegisterModelRequest(spec=spec()).SerializeToString()

    def request(_: int) -> bytes:
        # A message is the fields of one part after those of the other.
        own = pb.RegisterModelRequest(model_id=f"commit-{next(numbers)}", request_id=str(uuid.uuid4()))
        return common + own.SerializeToString()

    return Calls(
        address=replica.address,
        method="/broadsheet.v1.RegistryService/RegisterModel",
        metadata=_METADATA,
        request=request,
    )


def putting(server: EtcdServer) -> Calls:
    """Put of a value that is as large as the entry of a model."""
    value = bytes(ETCD_VALUE_BYTES)
    return Calls(address=server.address, method=PUT, request=lambda number: put_request(f"commit-{number}", value))


async def commits_per_second(calls: Calls, clients: int, seconds: float, replica: Replica | None) -> Measured:
    """Calls by `clients` callers at a time, each of which waits for its answer.

    Args:
        calls: What they call.
        clients: How many they are.
        seconds: For how long.
        replica: The control plane that is called; each call must commit. None: it is etcd.
    """
    before = await _revision_after_a_change(replica) if replica is not None else 0
    measured = await asyncio.to_thread(Load(calls).run, clients, seconds)
    if replica is not None:
        assert await _revision_after_a_change(replica) - before == measured.calls + 1, "every call commits"
    return measured


async def _revision_after_a_change(replica: Replica) -> int:
    request = pb.RegisterModelRequest(model_id=f"counted-{uuid.uuid4()}", spec=spec())
    answer = await stub(replica).RegisterModel(request, metadata=_METADATA)
    return answer.catalog_revision


async def compare_databases(urls: dict[str, str], directory: Path, seconds: float) -> None:
    """Commits per second on each database and of etcd, in turns, by 1 client and then by 64."""
    async with AsyncExitStack() as stack:
        calls: dict[str, Calls] = {}
        replicas: dict[str, Replica] = {}
        for name, url in urls.items():
            own = Path(tempfile.mkdtemp(dir=directory))
            (replicas[name],) = await stack.enter_async_context(control_planes(url, own))
            calls[name] = registering_models(replicas[name])
        etcd = await stack.enter_async_context(running_etcd(Path(tempfile.mkdtemp(dir=directory))))
        calls[ETCD] = putting(etcd)
        load_cpu_us: list[float] = []
        for clients in (1, 64):
            rates: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(ROUNDS):
                for name in calls:
                    measured = await commits_per_second(calls[name], clients, seconds, replicas.get(name))
                    rates[name].append(measured.per_second)
                    load_cpu_us.append(measured.cpu_s * 1e6 / measured.calls)
            for name in calls:
                tell(_rate_line(f"{name}, {clients} client{'s' if clients > 1 else ''}", rates[name], rates[ETCD]))
        tell("CPU of the load generator, each call".ljust(37) + f"{statistics.median(load_cpu_us):.0f} µs")


def _rate_line(what: str, rates: Sequence[float], of_etcd: Sequence[float]) -> str:
    line = what.ljust(35) + f"{statistics.median(rates):.0f} commits/s ({min(rates):.0f} to {max(rates):.0f})"
    if rates is of_etcd:
        return line
    return f"{line}, {statistics.median(rates) / statistics.median(of_etcd):.2f} of etcd"


async def time_apply(url: str, directory: Path, adapters: int) -> None:
    """`broadsheet apply` of new adapters to a model that exists, on SQLite."""
    source = write_adapter(directory / "applied")
    document = f"parent: models/base\nsource: {{uri: {source.as_uri()}}}\nadapter_id: "
    documents = (f"{document}a-{number}\n" for number in range(adapters))
    file = directory / "adapters.yaml"
    file.write_text("---\n".join(documents))
    async with control_planes(url, Path(tempfile.mkdtemp(dir=directory))) as (replica,):
        request = pb.RegisterModelRequest(model_id="base", spec=spec())
        await stub(replica).RegisterModel(request, metadata=_METADATA)
        environment = {
            **os.environ,
            "BROADSHEET_ENDPOINT": replica.address,
            "BROADSHEET_TOKEN": TOKENS[Role.PUBLISHER],
        }
        for what in ("new", "there already"):
            began = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", "from broadsheet.cli import main; main()", "apply", "-f", str(file)),
                env=environment,
                stdout=asyncio.subprocess.DEVNULL,
            )
            assert await process.wait() == 0, "everything was applied"
            took = time.perf_counter() - began
            tell(f"apply of {adapters} adapters, {what}".ljust(35) + f"{took:.1f} s")


def memory(full: Replica, empty: Replica) -> str:
    """Resident memory of both processes."""
    full_mib, empty_mib = (psutil.Process(item.pid).memory_info().rss / 2**20 for item in (full, empty))
    return f"{full_mib:.0f} MiB (on the empty catalog: {empty_mib:.0f} MiB)"


async def measure(arguments: argparse.Namespace, directory: Path, postgres_url: str) -> None:
    """Run the benchmark and print its tables."""
    source = write_adapter(directory / "lora")
    full_url, empty_url, commits_url = (database_url(directory / f"{name}.db") for name in ("full", "empty", "commits"))
    full_directory, empty_directory = (Path(tempfile.mkdtemp(dir=directory)) for _ in range(2))
    tell(f"{arguments.models} models and {arguments.adapters} adapters:")
    began = time.perf_counter()
    await fill(full_url, directory, arguments.models, arguments.adapters)
    tell(f"  filled and checked in {time.perf_counter() - began:.0f} s")
    async with (
        control_planes(full_url, full_directory) as (full,),
        control_planes(empty_url, empty_directory) as (empty,),
    ):
        tell("control plane, when it has started".ljust(35) + memory(full, empty))
        await compare_registering(full, empty, source, arguments.calls)
        await compare_pages(full, max(2, arguments.calls // 10))
        tell("control plane, after these calls".ljust(35) + memory(full, empty))
    await compare_databases({"SQLite": commits_url, "PostgreSQL": postgres_url}, directory, arguments.seconds)
    await time_apply(database_url(directory / "applied.db"), directory, arguments.applied)


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="The registry on a large catalog, and its commits per second.")
    parser.add_argument("--models", type=int, default=100, help="default: 100")
    parser.add_argument("--adapters", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--calls", type=int, default=100, help="of RegisterAdapter in each of three rounds (100)")
    parser.add_argument("--applied", type=int, default=10_000, help="adapters to apply from a file (10000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="each of three rounds of commits (5)")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as scratch, running_server(durable=True) as server:
        asyncio.run(measure(arguments, Path(scratch), server.new_database()))


if __name__ == "__main__":
    main()
