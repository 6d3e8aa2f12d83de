"""What the relay costs with many engine replicas: `make bench-relay`.

The actor is the real one, in a Ray of this script's own. Engine replicas, ingress replicas and the
agent are clients of the real class in this process: each engine replica renews its report as
often as a real one and follows its two keys, each ingress replica follows the snapshot and the
limits, and the agent follows all reports. Only the actor's process is measured: its processor time
by its wall-clock time. The clients' process is shown because it may be what limits the run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial

import psutil
import ray
from rich.console import Console
from rich.table import Table

from dataplane.engine.replica import REPORT_INTERVAL_S
from dataplane.ingress.relayed_view import WATCHED
from dataplane.ingress.replica import LIMITS_PACE_S
from dataplane.ingress.replica import REPORT_INTERVAL_S as INGRESS_REPORT_INTERVAL_S
from dataplane.relay.actor import RAY_NAMESPACE, find_relay, open_relay
from dataplane.relay.messages import (
    ApplicationRecord,
    EngineReport,
    IngressReport,
    LiveAdapters,
    ModelUsageReport,
    SleepOrder,
)
from dataplane.relay.relay import Relay
from dataplane.relay.topics import AGENT, Key, Role, Topic, Watched, Writer, engine_key

DATA_PLANE = "bench"
OPEN_RELAY = partial(open_relay, DATA_PLANE)
REPLICAS = (50, 100, 200, 400, 800)
INGRESSES = 2
AGENT_PACE_S = 0.05
WARM_UP_S = 5.0
"""Not measured: the first reads of all clients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a number of engine replicas costs."""

    replicas: int
    cores: float
    """Of the actor's process."""
    clients_cores: float
    """Of this process."""
    puts_per_s: float
    """Reports of engine replicas that have arrived."""
    looks_per_s: float
    """Answers to the agent's long polls."""


def record(number: int) -> ApplicationRecord:
    return ApplicationRecord(
        name=f"broadsheet-m{number}-0123456789ab",
        model=f"models/m{number}",
        revision_number=1,
        entry=bytes(1000),
        replica_bounds=b"0:1",
        secret="s" * 43,
        created_at=time.time(),
    )


class Cluster:
    """All clients of the relay."""

    def __init__(self, replicas: int) -> None:
        self._records = [record(number) for number in range(replicas)]
        self._tasks: list[asyncio.Task[None]] = []
        self.puts = 0
        self.looks = 0
        self.seen = 0
        """Reports that the agent has received."""

    async def start(self) -> None:
        agent = Relay(AGENT, open_actor=OPEN_RELAY)
        for made in self._records:
            adapters = LiveAdapters(catalog_revision=1)
            await agent.put(
                {
                    Key(Topic.APPLICATIONS, made.name): made,
                    Key(Topic.ADAPTERS, made.name): adapters,
                    Key(Topic.SLEEP_ORDERS, made.name): SleepOrder(),
                }
            )
        self._go(self._agent(agent))
        for number in range(INGRESSES):
            relay = Relay(Writer(Role.INGRESS, f"ingress{number}"), open_actor=OPEN_RELAY)
            self._go(self._ingress(relay, Key(Topic.INGRESSES, f"ingress{number}")))
            self._go(self._follow(relay, WATCHED))
            self._go(self._follow(relay, [Topic.RATE_LIMITS], LIMITS_PACE_S))
        for number, made in enumerate(self._records):
            relay = Relay(Writer(Role.ENGINE, f"replica{number}"), open_actor=OPEN_RELAY)
            self._go(self._engine(relay, engine_key(made.name, f"replica{number}")))
            self._go(self._follow(relay, [Key(Topic.SLEEP_ORDERS, made.name), Key(Topic.ADAPTERS, made.name)]))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check(self) -> None:
        """Raise the error that has ended a client, if there is any."""
        for task in self._tasks:
            if task.done():
                task.result()

    def _go(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _engine(self, relay: Relay, key: Key) -> None:
        await asyncio.sleep(random.uniform(0, REPORT_INTERVAL_S))  # spreads the heartbeats
        while True:
            report = EngineReport(
                url="http://10.0.0.1:30000",
                in_flight=3,
                adapters=("a@0123456789abcdef0123456789abcdef",),
                failed_adapters={},
                reported_at=time.monotonic(),
                start_s=30.0,
                weights_s=2.0,
                sleep_order=SleepOrder(),
                model="models/m",
                adapters_tried=0,
            )
            await relay.put({key: report})
            self.puts += 1
            await asyncio.sleep(REPORT_INTERVAL_S)

    async def _ingress(self, relay: Relay, key: Key) -> None:
        usage = ModelUsageReport(in_flight=1, idle_s=1.0)
        while True:
            report = IngressReport(
                position=None,
                activation_sequence=1,
                models={made.model: usage for made in self._records},
                applications={made.name: 1 for made in self._records},
                reported_at=time.monotonic(),
            )
            await relay.put({key: report, Key(Topic.RATE_LIMITS, key.name): {"uid": (int(time.time()), 1)}})
            await asyncio.sleep(INGRESS_REPORT_INTERVAL_S)

    async def _follow(self, relay: Relay, watched: Sequence[Watched], pace_s: float = 0.0) -> None:
        watcher = relay.watcher(watched, pace_s=pace_s)
        while True:
            await watcher.next()

    async def _agent(self, relay: Relay) -> None:
        topics = (Topic.APPLICATIONS, Topic.SLEEP_ORDERS, Topic.INGRESSES, Topic.ENGINES)
        watcher = relay.watcher(topics, pace_s=AGENT_PACE_S)
        while True:
            changes = await watcher.next()
            self.looks += 1
            self.seen += len(changes.values(Topic.ENGINES))


async def measure(replicas: int, seconds: float) -> Cost:
    """Run that many engine replicas and measure the actor."""
    cluster = Cluster(replicas)
    await cluster.start()
    await asyncio.sleep(WARM_UP_S)
    actor, clients = actor_process(), psutil.Process()
    before = cpu_s(actor), cpu_s(clients), cluster.puts, cluster.looks, cluster.seen
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took_s = time.perf_counter() - began
    after = cpu_s(actor), cpu_s(clients), cluster.puts, cluster.looks, cluster.seen
    cluster.check()
    await cluster.stop()
    actor_s, clients_s, puts, looks, seen = (new - old for new, old in zip(after, before, strict=True))
    if seen < 0.9 * puts:
        raise RuntimeError(f"the agent has seen {seen} of {puts} reports")
    return Cost(
        replicas=replicas,
        cores=actor_s / took_s,
        clients_cores=clients_s / took_s,
        puts_per_s=puts / took_s,
        looks_per_s=looks / took_s,
    )


def actor_process() -> psutil.Process:
    """The relay's process, among those that this script's Ray has started."""
    (found,) = (
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [""])[0].startswith("ray::RelayActor")
        and os.getpid() == int(process.environ().get("BENCH_RELAY_PID", "0"))
    )
    return found


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def run(replicas: int, seconds: float) -> Cost:
    """One measurement in a Ray of its own, so that none inherits keys or memory of another."""
    os.environ["BENCH_RELAY_PID"] = str(os.getpid())
    ray.init(
        num_cpus=2,
        namespace=RAY_NAMESPACE,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=100 * 1024 * 1024,
        log_to_driver=False,
        configure_logging=False,
    )
    try:
        return asyncio.run(measure(replicas, seconds))
    finally:
        ray.kill(find_relay(DATA_PLANE))
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("replicas", nargs="*", type=int, default=REPLICAS, help="numbers of engine replicas")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured time of each number")
    arguments = parser.parse_args()
    costs = []
    for replicas in arguments.replicas:
        sys.stdout.write(f"{replicas} engine replicas, {arguments.seconds:g} s … ")
        sys.stdout.flush()
        costs.append(run(replicas, arguments.seconds))
        sys.stdout.write(f"{costs[-1].cores:.3f} cores\n")
        sys.stdout.flush()
    show(costs)


def line_through(costs: Sequence[Cost]) -> tuple[float, float]:
    """The line of least squares: cores without replicas, and cores per replica."""
    points = [(cost.replicas, cost.cores) for cost in costs]
    slope, intercept = statistics.linear_regression(*zip(*points, strict=True))
    return intercept, slope


def show(costs: Sequence[Cost]) -> None:
    """Print the table, and how far the costs are from a line."""
    table = Table(*("engine replicas", "relay, cores", "on the line", "reports/s", "agent's looks/s", "clients, cores"))
    fixed, slope = line_through(costs) if len(costs) > 1 else (0.0, costs[0].cores / costs[0].replicas)
    for cost in costs:
        table.add_row(
            str(cost.replicas),
            f"{cost.cores:.3f}",
            f"{fixed + slope * cost.replicas:.3f}",
            f"{cost.puts_per_s:.0f}",
            f"{cost.looks_per_s:.1f}",
            f"{cost.clients_cores:.2f}",
        )
    Console(width=100).print(table)
    sys.stdout.write(f"The line: {fixed:.3f} cores, and {slope * 1000:.3f} cores for 1,000 engine replicas.\n")


if __name__ == "__main__":
    main()
