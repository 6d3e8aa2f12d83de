"""Processes of the benchmark: started, paused, measured and ended together with their children."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from tests.death_signal import sent_at_our_death

_POLL_INTERVAL_S = 0.1
_STOP_S = 20.0
"""How long a process may take to end when it is asked to."""
_LOG_TAIL_CHARS = 2000


class StartError(Exception):
    """A process did not come up; the message has the end of its log."""


class Process:
    """A process with all its children, whose output goes to a log."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, *, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it.

        Args:
            name: Of its log.
            command: What to run.
            folder: Where its log goes.
            environment: Variables beside those of this process.
        """
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                preexec_fn=sent_at_our_death(signal.SIGTERM),
            )
        self._root = psutil.Process(self._child.pid)

    def tree(self) -> list[psutil.Process]:
        """The process and all its descendants that live."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self._root, *self._root.children(recursive=True)]
        return []

    def cpu_s(self) -> float:
        """Seconds of CPU time that they have used, those of ended children included."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory_bytes(self) -> int:
        """Their memory; what processes share is divided among them (PSS)."""
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.memory_full_info().pss
        return total

    def resident_bytes(self) -> int:
        """Their memory with all that they share (RSS): no other process changes it."""
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def pause(self) -> None:
        """Stop them, so that they use no CPU while others are measured."""
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Let them go on."""
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def end(self) -> None:
        """End them: asked first, then killed."""
        tree = self.tree()
        self.resume()
        self._child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_STOP_S)
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._child.wait()

    def wait_for_port(self, port: int, *, timeout_s: float) -> None:
        """Wait until something listens on a port of this machine.

        Raises:
            StartError: The process has ended, or it takes too long.
        """

        def listens() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
            return False

        self.wait_until(listens, timeout_s=timeout_s)

    def wait_until(self, is_up: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until something is so.

        Raises:
            StartError: The process has ended, or it takes too long.
        """
        until = time.monotonic() + timeout_s
        while not is_up():
            if self._child.poll() is not None:
                raise StartError(f"{self.name} has ended with status {self._child.returncode}: {self.log_tail()}")
            if time.monotonic() > until:
                raise StartError(f"{self.name} is not up after {timeout_s:g} s: {self.log_tail()}")
            time.sleep(_POLL_INTERVAL_S)

    def log_tail(self) -> str:
        """The end of what it has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARS:]


@contextlib.contextmanager
def ended(processes: list[Process]) -> Iterator[None]:
    """End all processes that the list has in the end, the newest first."""
    try:
        yield
    finally:
        for process in reversed(processes):
            process.end()


def exit_when_told() -> None:
    """Unwind at SIGTERM, so that `ended` ends all processes: paused ones would not see it."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
