"""Child processes of `broadsheet up`: started in order, watched, stopped in reverse order, and none
left behind.

Each child leads a session of its own, so a Ctrl-C in the terminal reaches this process alone and
the order of stopping is ours. Three nets catch what that leaves: a child gets SIGTERM when this
process dies, however it dies (PR_SET_PDEATHSIG); what is left of a child's process group is killed
after it; and processes that left the group (Ray's do) become children of this process when orphaned
(PR_SET_CHILD_SUBREAPER), and are killed last. The first and the last are Linux's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

STOP_TIMEOUT_S = 60.0
"""How long a child may take to end after SIGTERM before its group is killed."""

POLL_INTERVAL_S = 0.1
LOG_TAIL_BYTES = 4096
LOG_TAIL_LINES = 20

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_LAUNCHER = f"""\
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Asks for SIGTERM when the parent dies, then becomes the child. The parent may have died before it
asked, hence the check. A program of its own, because code between fork and exec is not safe in a
process with threads, and gRPC has threads."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. Not an Exception: nothing but the supervisor's owner may take it
    for an error."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class ChildEnded(Exception):
    """A child ended by itself, though it should run until it is told to stop."""

    def __init__(self, child: Child, status: int) -> None:
        how = f"ended with status {status}" if status >= 0 else f"was killed by {signal.Signals(-status).name}"
        super().__init__(f"{child.name} {how}")
        self.child = child


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Child:
    """One running child."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    """Its stdout and stderr."""

    def log_tail(self) -> str:
        """The last lines that it printed."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        return ""


class Supervisor:
    """Owns children while its `with` block runs, and the handling of SIGINT and SIGTERM.

    A first signal raises `Interrupted` in the block (in the main thread, wherever it is). Leaving
    the block, for whatever reason, stops every child. A second signal skips the waiting and kills
    them.
    """

    def __init__(self, *, say: Callable[[str], None], stop_timeout_s: float = STOP_TIMEOUT_S) -> None:
        self._say = say
        self._stop_timeout_s = stop_timeout_s
        self._children: list[Child] = []
        self._signals: list[int] = []
        """Those that arrived, in order."""
        self._may_raise = False
        """False while a child is between started and remembered, and while children are stopped."""
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        _become_subreaper()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)
        self._may_raise = True
        return self

    def __exit__(
        self, type_: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._may_raise = False
        try:
            self._stop_all()
        finally:
            for number, previous in self._previous.items():
                signal.signal(number, previous)  # type: ignore[arg-type]  # what signal.signal gave

    def start(self, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> Child:
        """Start a child. Its output goes to the end of `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with self._no_interruption(), log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-S", "-E", "-c", _LAUNCHER, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
            child = Child(name=name, process=process, log=log)
            self._children.append(child)
        return child

    def check(self) -> None:
        """Raises: ChildEnded, when one has."""
        for child in self._children:
            status = child.process.poll()
            if status is not None:
                raise ChildEnded(child, status)

    def sleep(self, duration_s: float) -> None:
        """Wait, but not longer than every child lives.

        Raises:
            ChildEnded: One has ended.
        """
        until_s = time.monotonic() + duration_s
        while True:
            self.check()
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(left_s, POLL_INTERVAL_S))

    @contextlib.contextmanager
    def _no_interruption(self) -> Iterator[None]:
        """A signal that arrives in this block raises after it."""
        self._may_raise = False
        try:
            yield
        finally:
            self._may_raise = True
        if self._signals:
            raise Interrupted(self._signals[0])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        if self._may_raise and len(self._signals) == 1:
            raise Interrupted(number)

    @property
    def _forced(self) -> bool:
        return len(self._signals) >= 2

    def _stop_all(self) -> None:
        """Stop the children, the last started first: those may need the earlier ones to end
        well."""
        for child in reversed(self._children):
            if child.process.poll() is None:
                self._say(f"stopping the {child.name}; a second Ctrl-C kills it")
                child.process.send_signal(signal.SIGTERM)
                self._wait(child)
            _kill_group(child.process.pid)
            child.process.wait()
        _kill_adopted({child.process.pid for child in self._children})

    def _wait(self, child: Child) -> None:
        until_s = time.monotonic() + self._stop_timeout_s
        while child.process.poll() is None:
            if self._forced:
                self._say(f"killing the {child.name}")
                return
            if time.monotonic() >= until_s:
                self._say(f"killing the {child.name}, which has not ended after {self._stop_timeout_s:g} s")
                return
            time.sleep(POLL_INTERVAL_S)


def _kill_group(process_group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process_group, signal.SIGKILL)


def _become_subreaper() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _kill_adopted(known: set[int]) -> None:
    """Kill orphans of our children until none is left: a killed one may leave orphans of its
    own."""
    while True:
        adopted = _adopted_by(os.getpid()) - known
        if not adopted:
            return
        for pid in adopted:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in adopted:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _adopted_by(parent: int) -> set[int]:
    """Processes whose parent is `parent`, by what /proc says. Empty where there is no /proc."""
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (name) state parent …; the name may hold spaces and brackets.
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.add(int(entry.parent.name))
    return found
