"""Counts crashes soon after a snapshot went into service. Blocking: call it in a thread."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

from dataplane.sync.disk.disk import Disk
from dataplane.sync.disk.text import read_text, write_text

PROBATION_S = 60.0
"""A snapshot that has been in service for this long without a crash is proven."""


class Probation:
    """The probation of the snapshot in service, on disk until the snapshot has outlived it.

    A snapshot has one probation. Once proven, it is never put on probation again. An orderly stop
    interrupts a probation: it starts anew with the next process, which finds the same number of
    crashes. A probation that is found running at start therefore means that the process crashed.
    Nothing is written when a change of the snapshot begins its probation: a change that is neither
    in this file nor marked as proven in its log is on probation, and the process did not stop.
    """

    def __init__(self, disk: Disk, path: str, *, clock: Callable[[], float], note_proven: Callable[[], None]) -> None:
        """
        Args:
            disk: Where its file is.
            path: Its file.
            clock: Seconds, from any origin.
            note_proven: Notes in the log of changes that the newest snapshot is proven.
        """
        self._disk = disk
        self._path = path
        self._note_proven = note_proven
        self._clock = clock
        self._name = ""
        self._crashes = 0
        self._since_s: float | None = None
        """None: there is no probation."""
        self._proven = False

    @property
    def proven(self) -> bool:
        """Whether the snapshot in service has outlived its probation."""
        return self._proven or self._is_over()

    def _is_over(self) -> bool:
        return self._since_s is not None and self._clock() - self._since_s >= PROBATION_S

    def crashes_at_start(self, name: str) -> int | None:
        """How often the process has crashed while the snapshot file `name` was on probation.

        None: it is not on probation any more.
        """
        try:
            fields = json.loads(read_text(self._disk, self._path))
            file, crashes, stopped = str(fields["file"]), int(fields["crashes"]), bool(fields.get("stopped"))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        if file != name:
            return None
        return crashes if stopped else crashes + 1

    def record(self, name: str, *, crashes: int) -> None:
        """Write that the snapshot file `name` is on probation, before it goes into service.

        Raises:
            OSError: It could not be written.
        """
        self._write(name, crashes, stopped=False)

    def _write(self, name: str, crashes: int, *, stopped: bool) -> None:
        write_text(self._disk, self._path, json.dumps({"file": name, "crashes": crashes, "stopped": stopped}))

    def begin(self, name: str, *, crashes: int) -> None:
        """Count the time from now on: the snapshot file `name` is in service."""
        self._name, self._crashes = name, crashes
        self._since_s, self._proven = self._clock(), False

    def settle(self) -> bool:
        """End the probation if it is over. Returns whether the snapshot in service is proven."""
        if self._is_over():
            with suppress(OSError):  # it is removed by a later call
                self.prove()
        return self.proven

    def prove(self) -> None:
        """Take the snapshot in service for proven.

        Raises:
            OSError: The file could not be removed. `settle` tries again.
        """
        self._proven = True
        self._note_proven()
        if self._disk.exists(self._path):
            self._disk.remove(self._path)
        self._since_s = None

    def interrupt(self) -> None:
        """Stop in good order: this process does not count as crashed."""
        self.settle()
        if self._since_s is not None:
            self._since_s = None
            with suppress(OSError):
                self._write(self._name, self._crashes, stopped=True)
