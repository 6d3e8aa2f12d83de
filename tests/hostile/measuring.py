"""What an attack costs: memory of the attacked process, and latency of a neighbour."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from tests.hostile.attacker import Attack, Attacker
from tests.hostile.neighbour import Neighbour

GROWTH_BYTES_MAX = 64 * 1024 * 1024
"""How much more resident memory an attacked process may have than when all was quiet."""
LATENCY_FACTOR_MAX = 3.0
"""How many times the quiet p99 the p99 of the neighbour may be."""
QUIET_P99_S_MIN = 0.025
"""A lower quiet p99 counts as this. Scheduling on two busy cores makes differences below it."""
TRIES = 3
"""How often an attack is measured until the latency is good: other processes disturb it. The bound
on memory holds in each."""

_QUIET_S = 0.33
_SAMPLE_S = 0.02
_RELEASE_S = 5.0
"""Within which connections that the attacker has closed are gone from the server."""

_log = logging.getLogger(__name__)


@dataclass
class Listener:
    """A listening port of a process under attack."""

    host: str
    port: int
    process: psutil.Process
    probe: str
    """What the neighbour asks meanwhile."""
    key: str = ""
    """An API key that attackers may use."""
    quiet_bytes: int = field(init=False)
    """Resident memory before the first attack."""

    def __post_init__(self) -> None:
        self.quiet_bytes = self.process.memory_info().rss

    def connections(self) -> int:
        """Connections that its process has accepted on the port."""
        found = self.process.net_connections("tcp")
        return sum(one.laddr.port == self.port and one.status != psutil.CONN_LISTEN for one in found)


class Memory:
    """Watches the resident memory of a process, in a thread."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)


def p99(seconds: Sequence[float]) -> float:
    """The 99th percentile (nearest rank)."""
    return sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1]


async def assert_withstands(listener: Listener, neighbour: Neighbour, attack: Attack) -> None:
    """Attack a listener, and assert that it stays small, and its neighbour fast.

    Raises:
        AssertionError: the process has died, has grown or keeps connections, or the neighbour was
            refused or had to wait.
    """
    late = ""
    for _ in range(TRIES):
        quiet = await _latencies(listener, neighbour)
        attacker = Attacker(listener.host, listener.port, key=listener.key)
        before = listener.connections()
        with Memory(listener.process) as memory:
            neighbour.begin(listener.probe)
            try:
                with attacker:
                    await attack(attacker)
            finally:
                attacked = await asyncio.to_thread(neighbour.end)
            await _released(listener, before)
        assert attacker.opened
        assert attacker.sent_bytes or attacker.silent, "the attack has sent nothing"
        assert listener.process.is_running(), "the process has ended"
        growth = memory.peak_bytes - listener.quiet_bytes
        assert growth <= GROWTH_BYTES_MAX, f"the process has grown by {growth / 2**20:.0f} MiB"
        allowed_s = LATENCY_FACTOR_MAX * max(p99(quiet), QUIET_P99_S_MIN)
        late = (
            f"p99 of {len(attacked)} answers was {p99(attacked) * 1000:.0f} ms, of {len(quiet)} quiet ones "
            f"{p99(quiet) * 1000:.0f} ms; allowed is {allowed_s * 1000:.0f} ms"
        )
        _log.info("grown %.0f MiB; %s; %d connections", growth / 2**20, late, attacker.opened)
        if p99(attacked) <= allowed_s:
            return
    raise AssertionError(late)


async def _latencies(listener: Listener, neighbour: Neighbour) -> Sequence[float]:
    neighbour.begin(listener.probe)
    await asyncio.sleep(_QUIET_S)
    return await asyncio.to_thread(neighbour.end)


async def _released(listener: Listener, before: int) -> None:
    async with asyncio.timeout(_RELEASE_S):
        while listener.connections() > before:  # noqa: ASYNC110  # what the kernel knows is no event
            await asyncio.sleep(_SAMPLE_S)
