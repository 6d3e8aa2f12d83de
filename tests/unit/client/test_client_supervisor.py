"""`broadsheet up` with small real children: order, signals, deaths, and left-over processes.

Each test runs the supervisor in its own process, because it handles the signals and adopts the
orphans of its process.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DEADLINE_S = 30.0

PROGRAM = """
import sys
from pathlib import Path
from rich.console import Console
from broadsheet.cli.up.command import run
from broadsheet.cli.up.local import Plane, StartError

folder = Path(sys.argv[1])
screen = Console(file=sys.stderr, width=200)


def plane(name, source, address, timeout_s=20.0):
    ready = folder / f"{name}.ready"
    return Plane(
        name=name,
        command=[sys.executable, "-c", source, str(folder), name],
        log=folder / "logs" / f"{name}.log",
        ready=ready.exists,
        address=address,
        flag=f"--{name}",
        start_timeout_s=timeout_s,
    )


planes = [plane("first", *FIRST), plane("second", *SECOND)]
try:
    sys.exit(run(planes, screen, stop_after=STOP_AFTER, banner="all up"))
except StartError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""

CHILD = """
import os, signal, subprocess, sys, time
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]


def note(line):
    with (folder / "events").open("a") as events:
        events.write(f"{line}\\n")


def remember(pid):
    with (folder / "pids").open("a") as pids:
        pids.write(f"{pid}\\n")


def stop(number, frame):
    note(f"{name} stopped")
    sys.exit(0)


remember(os.getpid())
signal.signal(signal.SIGTERM, stop)
print(f"{name} says hello", flush=True)
"""

READY = CHILD + "note(f'{name} started')\n(folder / f'{name}.ready').touch()\n"
GOOD = READY + "time.sleep(600)\n"
DIES_AT_START = CHILD + "print('no such flag', flush=True)\nsys.exit(7)\n"
DIES_LATER = READY + "time.sleep(1.0)\nprint('out of memory', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
NEVER_READY = CHILD + "time.sleep(600)\n"
STUBBORN = READY + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nnote('deaf')\ntime.sleep(600)\n"
# Grandchildren as Ray has them, which ignore SIGTERM: in the group of the child, and in a session
# of their own.
SPRAWLING = (
    READY.replace(
        "note(f'{name} started')",
        "for alone in (False, True):\n"
        "    source = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)'\n"
        "    remember(subprocess.Popen([sys.executable, '-c', source], start_new_session=alone).pid)\n"
        "note(f'{name} started')",
    )
    + "time.sleep(600)\n"
)


class Run:
    """A supervisor in its own process."""

    def __init__(self, folder: Path, first: str, second: str, *, stop_after: bool = False, address: str = "") -> None:
        self.folder = folder
        program = (
            PROGRAM.replace("*FIRST", repr(first) + f", {address or _free_address()!r}")
            .replace("*SECOND", repr(second) + f", {_free_address()!r}")
            .replace("STOP_AFTER", repr(stop_after))
        )
        with (folder / "said").open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, str(folder)], stderr=said, start_new_session=True
            )

    def until(self, condition: Callable[[], bool]) -> None:
        until_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < until_s
            time.sleep(0.02)

    def until_event(self, event: str) -> None:
        self.until(lambda: event in self.events())

    def end(self) -> tuple[int, str]:
        """Exit status and what it said, once it has ended by itself."""
        return self.process.wait(timeout=DEADLINE_S), self.said()

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def until_up(self) -> None:
        self.until(lambda: "all up" in self.said())

    def events(self) -> list[str]:
        path = self.folder / "events"
        return path.read_text().splitlines() if path.exists() else []

    def pids(self) -> list[int]:
        path = self.folder / "pids"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def left(self) -> list[int]:
        """Those of its descendants that still run."""
        return [pid for pid in self.pids() if _runs(pid)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(first: str = GOOD, second: str = GOOD, **options: object) -> Run:
        runs.append(Run(tmp_path, first, second, **options))  # type: ignore[arg-type]  # those of Run
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.wait()
        for pid in run.left():
            os.kill(pid, signal.SIGKILL)


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_children_start_in_order_and_stop_in_reverse(start: Callable[..., Run]) -> None:
    run = start(stop_after=True)
    status, said = run.end()
    assert status == 0, said
    assert run.events() == ["first started", "second started", "second stopped", "first stopped"]
    assert "all up" in said
    assert run.left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_start_exits_with_0(start: Callable[..., Run], number: signal.Signals) -> None:
    run = start()
    run.until_up()
    run.process.send_signal(number)
    status, said = run.end()
    assert (status, run.left()) == (0, [])
    assert run.events()[-2:] == ["second stopped", "first stopped"]
    assert "Traceback" not in said


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_the_start_leaves_no_process(
    start: Callable[..., Run], number: signal.Signals, expected: int
) -> None:
    run = start(GOOD, NEVER_READY)
    run.until(lambda: len(run.pids()) == 2)
    run.process.send_signal(number)
    status, said = run.end()
    assert (status, run.left()) == (expected, [])
    assert "Traceback" not in said


def test_a_child_that_dies_at_start_is_named_with_the_end_of_its_log(start: Callable[..., Run]) -> None:
    run = start(GOOD, DIES_AT_START)
    status, said = run.end()
    assert (status, run.left()) == (1, [])
    assert "the second ended with status 7" in said
    assert "no such flag" in said
    assert run.events() == ["first started", "first stopped"]


def test_a_child_that_dies_later_stops_the_other(start: Callable[..., Run]) -> None:
    run = start(DIES_LATER, GOOD)
    status, said = run.end()
    assert (status, run.left()) == (1, [])
    assert "the first was killed by SIGKILL" in said
    assert "out of memory" in said


def test_a_second_signal_kills(start: Callable[..., Run]) -> None:
    run = start(GOOD, STUBBORN)
    run.until_event("deaf")
    run.until_up()
    run.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGINT)
    status, said = run.end()
    assert (status, run.left()) == (0, [])
    assert "killing the second" in said


def test_grandchildren_are_killed_in_any_process_group(start: Callable[..., Run]) -> None:
    run = start(GOOD, SPRAWLING, stop_after=True)
    status, said = run.end()
    assert status == 0, said
    assert len(run.pids()) == 4
    assert run.left() == []


def test_children_stop_even_when_their_supervisor_is_killed(start: Callable[..., Run]) -> None:
    run = start()
    run.until_event("second started")
    run.process.kill()
    run.process.wait()
    run.until(lambda: run.left() == [])
    assert set(run.events()[-2:]) == {"first stopped", "second stopped"}


def test_a_port_in_use_is_reported_before_anything_starts(start: Callable[..., Run]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        run = start(address=address)
        status, said = run.end()
    assert status == 2
    assert f"the first cannot listen on {address}: Address already in use" in said
    assert "--first HOST:PORT" in said
    assert run.pids() == []


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", ":8000", "nonsense"])
def test_an_invalid_address_is_rejected(start: Callable[..., Run], address: str) -> None:
    run = start(address=address)
    status, said = run.end()
    assert status == 2
    assert f"got {address!r}; expected HOST:PORT" in said


def test_output_of_children_goes_to_their_logs(start: Callable[..., Run], tmp_path: Path) -> None:
    start(stop_after=True).end()
    assert (tmp_path / "logs" / "second.log").read_text() == "second says hello\n"
