"""Child processes of `broadsheet up`: started in order, stopped in reverse order, none left over.

Each child leads its own session, so a Ctrl-C in the terminal reaches only this process, which then
stops the children in its own order. Three measures prevent left-over processes. A child gets
SIGTERM when this process dies (PR_SET_PDEATHSIG). The rest of a child's process group is killed
after the child. Processes that left the group, as Ray's do, become children of this process when
orphaned (PR_SET_CHILD_SUBREAPER), and are killed last. The first and the last need Linux.
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
"""Requests SIGTERM for the death of the parent, then becomes the child. The parent may have died
before that, hence the check. It is a separate program because code between fork and exec is not
safe in a process with threads, and gRPC has threads."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived.

    Not an Exception, so that no handler of errors catches it.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class ChildEnded(Exception):
    """A child ended by itself instead of running until it is stopped."""

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
    """File with its stdout and stderr."""

    def log_tail(self) -> str:
        """The last lines that the child printed."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        return ""


class Supervisor:
    """Owns its children, and the handling of SIGINT and SIGTERM, during its `with` block.

    The first signal raises `Interrupted` in the main thread. Leaving the block, for any reason,
    stops every child. A second signal kills them at once.
    """

    def __init__(self, *, say: Callable[[str], None], stop_timeout_s: float = STOP_TIMEOUT_S) -> None:
        self._say = say
        self._stop_timeout_s = stop_timeout_s
        self._children: list[Child] = []
        self._signals: list[int] = []
        """Signals that arrived, in order."""
        self._may_raise = False
        """False while a child is started but not in `_children`, and while children are stopped."""
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
        """Start a child. Its output is appended to `log`."""
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
        """Check that every child is running.

        Raises:
            ChildEnded: A child has ended.
        """
        for child in self._children:
            status = child.process.poll()
            if status is not None:
                raise ChildEnded(child, status)

    def sleep(self, duration_s: float) -> None:
        """Wait while every child is running.

        Raises:
            ChildEnded: A child has ended.
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
        """Delay the exception of a signal until the end of this block."""
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
        """Stop the children, last started first: a later child may need an earlier one to stop."""
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
    """Kill orphans of the children until none is left: killing one may orphan others."""
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
    """Processes whose parent is `parent`, from /proc. Empty where there is no /proc."""
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (name) state parent …; the name may hold spaces and brackets.
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.add(int(entry.parent.name))
    return found
