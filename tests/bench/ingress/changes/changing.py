"""Compares the latency of requests while nothing changes, and while the snapshot does."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.ingress import plan, rounds, subjects
from tests.bench.ingress.changes import link
from tests.bench.ingress.changes.publisher import CHANGE_INTERVAL_S, Command
from tests.bench.ingress.processes import Process, ended
from tests.bench.ingress.shown.results import Sample, spread
from tests.bench.output import tell
from tests.ports import free_port

ENTRIES = 100_000
_WINDOW_SECONDS_MIN = 5
"""Of load for one 99th percentile: thousands of requests."""
_START_S = 120.0
_POLL_INTERVAL_S = 0.05
_CASE = plan.Case(name="changes-c16")
QUIET, CHANGES, WHOLE = "nothing changes", "an adapter each 100 ms", "a whole snapshot, once"
WANTED_MS = {CHANGES: 5.0, WHOLE: 10.0}
"""By how much the 99th percentile may move."""


class LostChange(Exception):
    """The ingress does not decide by what was published."""


def run(*, times: int, seconds: int) -> bool:
    """Measure, and print. Returns whether an answer was wrong.

    Args:
        times: How many rounds.
        seconds: Of each measurement, at least `_WINDOW_SECONDS_MIN`.

    Raises:
        LostChange: A change did not arrive.
    """
    seconds = max(seconds, _WINDOW_SECONDS_MIN)
    with tempfile.TemporaryDirectory(prefix="bench-changes-") as name:
        folder = Path(name)
        place = subjects.Place(folder=folder, engine_port=free_port(), processes=[])
        with ended(place.processes):
            engine = subjects.start(plan.DIRECT, place)
            engine.wait_until_ready()
            socket = folder / "relay"
            windows = Windows(start(place, socket, entries=ENTRIES), engine, socket, folder, seconds)
            samples = [(kind, windows.measured(kind)) for _ in range(times) for kind in (QUIET, CHANGES, QUIET, WHOLE)]
    _show(samples)
    return any(sample.load.errors for _, sample in samples)


def start(place: subjects.Place, socket: Path, *, entries: int) -> subjects.Subject:
    """Start a publisher with so many entries, and an ingress that follows it.

    Raises:
        StartError: One of them does not come up.
    """
    module = "tests.bench.ingress.changes"
    command = [sys.executable, "-m", f"{module}.publisher", str(socket), str(entries), place.engine_url]
    publisher = Process("publisher", command, place.folder)
    place.processes.append(publisher)
    began = time.monotonic()
    publisher.wait_until(socket.exists, timeout_s=_START_S)
    port = free_port()
    command = [sys.executable, "-m", f"{module}.follower", str(port), str(socket)]
    ingress = place.start("follower", command, port=port)
    ingress.wait_until_ready()
    tell(f"an ingress with {entries:,} entries: ready after {time.monotonic() - began:.0f} s")
    return ingress


class Windows:
    """Windows of load, in which the snapshot changes or does not."""

    def __init__(
        self, ingress: subjects.Subject, engine: subjects.Subject, socket: Path, folder: Path, seconds: int
    ) -> None:
        self._ingress = ingress
        self._engine = engine
        self._socket = socket
        self._folder = folder
        self._seconds = seconds

    def measured(self, kind: str) -> Sample:
        """Load the ingress for a window of this kind."""
        if kind == WHOLE:
            self.publish(Command(prepare=True))
        command = Command(replace=True) if kind == WHOLE else Command(seconds=self._seconds if kind == CHANGES else 0)
        with ThreadPoolExecutor(1) as thread:
            revision = thread.submit(self.publish, command)
            sample = rounds.measured(
                self._ingress, _CASE, 0, engine=self._engine, seconds=self._seconds, folder=self._folder
            )
        self.await_revision(revision.result())
        return sample

    def publish(self, command: Command) -> int:
        """Have the publisher do something. Returns the revision that is published then."""
        return int(asyncio.run(link.call(self._socket, command.pack())))

    def await_revision(self, revision: int) -> None:
        """Wait until the ingress decides by a revision.

        Raises:
            LostChange: It does not.
        """
        until = time.monotonic() + _START_S
        while (active := revision_of(self._ingress.port)) != revision:
            if time.monotonic() > until:
                raise LostChange(f"the ingress decides by revision {active}, published is {revision}")
            time.sleep(_POLL_INTERVAL_S)


def revision_of(port: int) -> int:
    """The revision that an ingress decides by."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/readyz")
    revision: int = json.loads(connection.getresponse().read())["revision"]
    connection.close()
    return revision


def _show(samples: Sequence[tuple[str, Sample]]) -> None:
    title = f"{ENTRIES:,} entries, c={_CASE.connections}, changes every {CHANGE_INTERVAL_S * 1000:.0f} ms"
    table = Table("", "p50, ms", "p99, ms", "p99 moves by, ms", "wanted", "requests/s", title=title)
    for kind in (QUIET, CHANGES, WHOLE):
        loads = [sample.load for of, sample in samples if of == kind]
        # Each window is compared with the quiet one just before it.
        moved = [(late.load.p99_ms - early.load.p99_ms) for (_, early), (of, late) in pairs(samples) if of == kind]
        wanted = WANTED_MS.get(kind)
        columns = ([load.p50_ms for load in loads], [load.p99_ms for load in loads], moved)
        cells = [found.text() if (found := spread(values)) else "" for values in columns]
        rate = spread([load.requests / load.duration_s for load in loads])
        table.add_row(kind, *cells, f"≤ {wanted:g}" if wanted else "", rate.text(0) if rate else "")
    Console(width=150).print(table)


def pairs(samples: Sequence[tuple[str, Sample]]) -> list[tuple[tuple[str, Sample], tuple[str, Sample]]]:
    """Each quiet window with the window after it."""
    return [(one, other) for one, other in itertools.pairwise(samples) if one[0] == QUIET != other[0]]
