"""How requests/s grow with the ingress replicas of a node: 1, 2, 3 and 4 processes on one port.

    python -m tests.bench.bench_replicas [--counts 1,2,3,4] [--rounds 3] [--seconds 3]

The replicas are plain processes with the app, the protocol and the shared port of production,
without Ray. Load and engines are processes of their own, as many as are needed for not being the
limit. With enough cores, each replica gets one for itself, and the others share the rest. The
counts take turns. Printed: the median over the rounds, its ratio to one replica, the CPU that each
replica used, and how many of the connections each had. With `--apart` the replicas do not share
their connections, so the kernel alone spreads them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from rich.console import Console
from rich.table import Table

from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.sharing.channel import place_of
from dataplane.ingress.sharing.server import SharedServer
from dataplane.ingress.view_holder import ViewHolder
from dataplane.openai.http_protocol import protocol_class
from dataplane.openai.listening import listener_on
from tests import views
from tests.bench.lean_http import Engine, call, p50_ms, post
from tests.ingress_app import ingress_app
from tests.ports import free_port

STREAM_CHUNKS = 50
CATALOG_MODELS = 1000
UNARY = post("/v1/chat/completions", b'{"model":"m","messages":[{"role":"user","content":"How much is it?"}]}')
STREAM = post(
    "/v1/chat/completions", b'{"model":"m","messages":[{"role":"user","content":"How much is it?"}],"stream":true}'
)
_PROCESSES = multiprocessing.get_context("spawn")
_START_S = 60.0


# --- processes ------------------------------------------------------------------------------------


def run_engine(chunks: int, told: Connection) -> None:
    """Serve the lean engine on a free port."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Engine(chunks), "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(serve())


def run_replica(port: int, place: str, engines: Sequence[int], told: Connection) -> None:
    """Serve an ingress that knows a thousand models, one of them ready at these engines."""
    settings = IngressSettings()
    holder = ViewHolder()
    app = ingress_app(holder, settings, replica=str(os.getpid()), seed=os.getpid())
    names = ["m", *(f"m{number}" for number in range(1, CATALOG_MODELS))]
    catalog = views.snapshot(*(views.model(name) for name in names))
    holder.swap(views.view(catalog, {"m": views.ready(*(f"http://127.0.0.1:{engine}" for engine in engines))}))
    config = uvicorn.Config(
        app,
        http=protocol_class(settings, app.count_refusal),
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,
        server_header=False,
        date_header=False,
    )
    server = SharedServer(
        config,
        place=place,
        listen=lambda: listener_on("127.0.0.1", port, write_timeout_s=60, shared=True),
        max_connections=settings.max_connections,
    )

    def show() -> None:
        try:
            told.recv()
        except EOFError:  # the benchmark has ended
            sys.exit()
        told.send(server.connections)

    async def serve() -> None:
        await server.join()
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.01)
        told.send(0)
        asyncio.get_running_loop().add_reader(told.fileno(), show)
        await serving

    uvloop.run(serve())


def run_load(told: Connection) -> None:
    """Send what is asked for, each time that it is asked for."""
    told.send(0)
    while True:
        port, request, connections, seconds = told.recv()
        result = uvloop.run(call(port, request, connections=connections, seconds=seconds))
        told.send((result.count, p50_ms(result.latencies_s)))


@dataclass(frozen=True)
class Started:
    """A process, and what it was told or tells."""

    process: BaseProcess
    told: Connection
    first: int
    """What it said when it had started."""


def start(target: Callable[..., None], *arguments: object) -> Started:
    ours, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    if not ours.poll(_START_S):
        raise RuntimeError(f"{target.__name__} did not start")
    return Started(process, ours, ours.recv())


def pin(replicas: Sequence[Started], others: Sequence[Started], cores: Sequence[int]) -> bool:
    """Give each replica a core, and the rest to the others. Returns False if there are too few."""
    own, rest = cores[: len(replicas)], cores[len(replicas) :]
    if len(rest) < len(others):
        return False
    for replica, core in zip(replicas, own, strict=True):
        os.sched_setaffinity(replica.process.pid or 0, [core])
    for other in others:
        os.sched_setaffinity(other.process.pid or 0, rest)
    return True


# --- measuring ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measurement:
    """One round on one number of replicas."""

    per_s: float
    p50_ms: float
    cpu: float
    """Cores that a replica used, on average."""
    spread: tuple[int, ...]
    """Connections of each replica."""


def measure(
    port: int, replicas: Sequence[Started], loads: Sequence[Started], request: bytes, connections: int, seconds: float
) -> Measurement:
    for number, load in enumerate(loads):
        share = connections // len(loads) + (number < connections % len(loads))
        load.told.send((port, request, share, seconds))
    time.sleep(seconds * 0.3)
    before, begun = [cpu_s(replica) for replica in replicas], time.perf_counter()
    time.sleep(seconds * 0.5)
    elapsed = time.perf_counter() - begun
    cpu = [(cpu_s(replica) - used) / elapsed for replica, used in zip(replicas, before, strict=True)]
    spread = []
    for replica in replicas:
        replica.told.send(0)
        spread.append(int(replica.told.recv()))
    answered: list[tuple[int, float]] = [load.told.recv() for load in loads]
    return Measurement(
        per_s=sum(count for count, _ in answered) / seconds,
        p50_ms=statistics.median(latency for _, latency in answered),
        cpu=statistics.mean(cpu),
        spread=tuple(sorted(spread, reverse=True)),
    )


def cpu_s(started: Started) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{started.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compare(arguments: argparse.Namespace) -> dict[str, dict[int, list[Measurement]]]:
    """All measurements, by kind of request and number of replicas."""
    kinds = {"requests": UNARY, "streams": STREAM}
    results: dict[str, dict[int, list[Measurement]]] = {
        kind: {count: [] for count in arguments.counts} for kind in kinds
    }
    engines = [start(run_engine, STREAM_CHUNKS) for _ in range(arguments.engines)]
    loads = [start(run_load) for _ in range(arguments.loads)]
    nodes: dict[int, tuple[int, list[Started]]] = {}
    for count in arguments.counts:
        port = free_port()
        places = [place_of(f"bench {number if arguments.apart else 0}", "127.0.0.1", port) for number in range(count)]
        nodes[count] = port, [start(run_replica, port, place, [engine.first for engine in engines]) for place in places]
    cores, pinned = sorted(os.sched_getaffinity(0)), True
    for number in range(arguments.rounds + 1):
        for count, (port, replicas) in nodes.items():
            pinned = pin(replicas, [*engines, *loads], cores) and pinned
            for kind, request in kinds.items():
                seconds = arguments.seconds if number else 0.5  # the first round warms up
                measured = measure(port, replicas, loads, request, arguments.connections, seconds)
                if number:
                    results[kind][count].append(measured)
    sys.stdout.write(f"{len(cores)} cores, {'each replica has its own' if pinned else 'shared by all processes'}\n")
    for started in (*engines, *loads, *(replica for _, replicas in nodes.values() for replica in replicas)):
        started.process.kill()
        started.process.join()
    return results


# --- printing -------------------------------------------------------------------------------------


def summary(results: dict[str, dict[int, list[Measurement]]]) -> dict[str, list[dict[str, Any]]]:
    """What is printed, as values."""
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, by_count in results.items():
        one = statistics.median(measured.per_s for measured in by_count[min(by_count)])
        found[kind] = []
        for count, measurements in by_count.items():
            rates = [measured.per_s for measured in measurements]
            found[kind].append(
                {
                    "replicas": count,
                    "per_s": round(statistics.median(rates), 1),
                    "lowest_per_s": round(min(rates), 1),
                    "highest_per_s": round(max(rates), 1),
                    "ratio": round(statistics.median(rates) / one, 3),
                    "p50_ms": round(statistics.median(measured.p50_ms for measured in measurements), 3),
                    "cpu_of_a_replica": round(statistics.median(measured.cpu for measured in measurements), 3),
                    "connections": [list(measured.spread) for measured in measurements],
                }
            )
    return found


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    for kind, rows in found.items():
        least = rows[0]["replicas"]
        table = Table("replicas", f"{kind}/s", f"× {least}", "p50, ms", "CPU of a replica", "connections, last round")
        for row in rows:
            rate = f"{row['per_s']:.0f} ({row['lowest_per_s']:.0f} to {row['highest_per_s']:.0f})"
            spread = " ".join(str(count) for count in row["connections"][-1])
            table.add_row(
                str(row["replicas"]),
                rate,
                f"{row['ratio']:.2f}",
                str(row["p50_ms"]),
                str(row["cpu_of_a_replica"]),
                spread,
            )
        Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--connections", type=int, default=64, help="of all load processes together")
    parser.add_argument("--engines", type=int, default=4, help="processes")
    parser.add_argument("--loads", type=int, default=4, help="processes")
    parser.add_argument("--apart", action="store_true", help="replicas do not share their connections")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    found = summary(compare(arguments))
    show(found)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
