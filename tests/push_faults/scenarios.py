"""What is done to the processes, one scenario a row of the table."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.postgres_server import PostgresServer
from tests.push_faults.control_plane import POINTS as CONTROL_PLANE_POINTS
from tests.push_faults.data_plane import POINTS as DATA_PLANE_POINTS
from tests.push_faults.points import order_for
from tests.push_faults.proxy import Fault, proxy
from tests.push_faults.world import MODELS, Process, World, world

STOPPED_S = 10.0
"""How long a process stays stopped."""
STALLED_S = 75.0
"""Longer than the control plane waits for a word of a data plane."""
CUT_S = 45.0
"""Longer than a data plane waits for a word of the control plane."""
LOSSY_S = 30.0
REACHED_TIMEOUT_S = 60.0
"""For a process to come to its point."""
AFTER_S = 2.0
"""How long changes go on once the fault is over."""

_SIGNALS = {signal.SIGKILL: "kill -9", signal.SIGSTOP: f"stopped for {STOPPED_S:g} s"}


Run = Callable[[World], Coroutine[object, object, None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault."""

    part: str
    point: str
    fault: str
    run: Run
    """Starts both planes, makes the fault while changes go on, and returns when it is over."""
    needs_postgres: bool = False
    needs_proxy: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a scenario ended."""

    changes: int
    """Acknowledged while it ran."""
    converged_s: float
    """From the last change until the data plane served it."""
    faults: list[str]
    """What did not hold. Empty: everything did."""


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # it is about other processes
        await asyncio.sleep(0.02)


async def _signalled(
    process: Process, start_again: Callable[[], Coroutine[object, object, None]], number: signal.Signals
) -> None:
    """Wait until a process has ended or stopped by itself, and get it running again."""
    assert process.process is not None, "it was started"
    async with asyncio.timeout(REACHED_TIMEOUT_S):
        if number is signal.SIGKILL:
            await process.process.wait()
        else:
            await _until(lambda: process.is_stopped)
    if number is signal.SIGKILL:
        await start_again()
    else:
        await asyncio.sleep(STOPPED_S)
        process.send(signal.SIGCONT)


def _at_control_plane(point: str, number: signal.Signals) -> Run:
    passes = 1 if point == "a part of a snapshot is sent" else MODELS + 20

    async def run(at: World) -> None:
        await at.start_controlplane(order_for(number, passes, point))
        await at.fill()
        await at.start_dataplane()
        await _signalled(at.controlplane, at.start_controlplane, number)

    return run


def _at_data_plane(point: str, number: signal.Signals) -> Run:
    async def run(at: World) -> None:
        await at.start_controlplane()
        await at.fill()
        await at.start_dataplane(order_for(number, 5, point))
        await _signalled(at.dataplane, at.start_dataplane, number)

    return run


async def _stalled_reader(at: World) -> None:
    await _start_and_settle(at)
    at.dataplane.send(signal.SIGSTOP)
    await asyncio.sleep(STALLED_S)
    at.dataplane.send(signal.SIGCONT)


async def _start_and_settle(at: World) -> None:
    await at.start_controlplane()
    await at.fill()
    await at.start_dataplane()
    await at.converged()


def _network(change: Callable[[Fault], None], seconds: float) -> Run:
    async def run(at: World) -> None:
        await _start_and_settle(at)
        assert at.network is not None, "there is a proxy"
        change(at.network)
        await asyncio.sleep(seconds)
        at.network.heal()

    return run


def _one_way(fault: Fault, *, to_server: bool, to_client: bool) -> None:
    if to_server:
        fault.to_server_open.clear()
    if to_client:
        fault.to_client_open.clear()


def _lossy(fault: Fault) -> None:
    fault.loss = 0.5


def _database(number: signal.Signals) -> Run:
    async def run(at: World) -> None:
        await _start_and_settle(at)
        assert at.database_processes is not None, "it is PostgreSQL"
        postmaster, *children = at.database_processes()
        if number is signal.SIGKILL:
            # The postmaster then ends all others and recovers, as after a crash.
            backend = next(child for child in children if "idle" in " ".join(child.cmdline()))
            backend.kill()
            return
        for process in (postmaster, *children):
            process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(STOPPED_S)
        for process in (postmaster, *children):
            process.send_signal(signal.SIGCONT)

    return run


def scenarios() -> Iterator[Scenario]:
    """All of them, in the order of the table."""
    for point in CONTROL_PLANE_POINTS:
        for number, fault in _SIGNALS.items():
            yield Scenario("control plane", point, fault, _at_control_plane(point, number))
    for point in DATA_PLANE_POINTS:
        for number, fault in _SIGNALS.items():
            yield Scenario("data plane", point, fault, _at_data_plane(point, number))
    yield Scenario("data plane", "between changes", f"stopped for {STALLED_S:g} s: a stalled reader", _stalled_reader)
    yield Scenario("PostgreSQL", "under changes", "kill -9 of a backend", _database(signal.SIGKILL), True)
    yield Scenario("PostgreSQL", "under changes", _SIGNALS[signal.SIGSTOP], _database(signal.SIGSTOP), True)
    for name, to_server, to_client in (
        ("nothing reaches the data plane", False, True),
        ("nothing reaches the control plane", True, False),
        ("nothing passes", True, True),
    ):
        cut = _network(lambda fault, s=to_server, c=to_client: _one_way(fault, to_server=s, to_client=c), CUT_S)  # type: ignore[misc]
        yield Scenario("network", name, f"for {CUT_S:g} s", cut, needs_proxy=True)
    yield Scenario("network", "under changes", f"50 % loss for {LOSSY_S:g} s", _network(_lossy, LOSSY_S), False, True)


async def run(scenario: Scenario, directory: Path, postgres: PostgresServer) -> Outcome:
    """Run a scenario from nothing, and check what must hold at its end."""
    url = postgres.new_database() if scenario.needs_postgres else None
    async with AsyncExitStack() as stack:
        at = await stack.enter_async_context(world(Path(tempfile.mkdtemp(dir=directory)), url))
        if scenario.needs_postgres:
            at.database_processes = _postgres_processes
        if scenario.needs_proxy:
            at.network = Fault()
            at.data_plane_target = await stack.enter_async_context(proxy(at.address, at.network))
        stop = asyncio.Event()
        filled = asyncio.create_task(scenario.run(at))
        await _until(lambda: at.revision >= MODELS or filled.done())
        changing = asyncio.create_task(at.change_until(stop))
        try:
            await filled
            await asyncio.sleep(AFTER_S)
        finally:
            stop.set()
            await changing
        converged_s = await at.converged()
        return Outcome(len(at.served.positions), converged_s, await at.faults())


def _postgres_processes() -> list[psutil.Process]:
    """The server of this process, and then those that it has started."""
    for process in psutil.Process().children():
        if "postgres" in process.name():
            return [process, *process.children(recursive=True)]
    raise LookupError("no PostgreSQL server runs")
