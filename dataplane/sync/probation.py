"""Counts crashes soon after a snapshot went into service. Blocking: call it in a thread."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dataplane.sync.durable_files import write_text

PROBATION_S = 60.0
"""A crash within this time after a snapshot went into service counts against the snapshot."""


class Probation:
    """The probation of the snapshot in service, on disk while it lasts.

    A clean shutdown ends the probation. A probation that is found at start therefore
    means that the process crashed during it.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        """
        Args:
            path: Its file.
            clock: Seconds, from any origin.
        """
        self._path = path
        self._clock = clock
        self._since_s: float | None = None
        """None: there is no probation."""
        self._proven = False

    @property
    def proven(self) -> bool:
        """Whether the snapshot in service has outlived a probation."""
        return self._proven or self._is_over()

    def _is_over(self) -> bool:
        return self._since_s is not None and self._clock() - self._since_s >= PROBATION_S

    def crashes_at_start(self, name: str | None) -> int:
        """How often the process has crashed while the snapshot file `name` was on probation."""
        try:
            fields = json.loads(self._path.read_text(encoding="utf-8"))
            file, crashes = str(fields["file"]), int(fields["crashes"])
        except (OSError, ValueError, TypeError, KeyError):
            return 0
        return crashes + 1 if file == name else 0

    def assume(self, *, proven: bool) -> None:
        """Set whether the snapshot in service is proven, from what was found at start."""
        self._proven = proven

    def begin(self, name: str, *, crashes: int) -> None:
        """Put the snapshot file `name` on probation.

        Raises:
            OSError: It could not be written. The probation has begun all the same.
        """
        self._since_s = self._clock()
        write_text(self._path, json.dumps({"file": name, "crashes": crashes}))

    def settle(self) -> bool:
        """End the probation if it is over. Returns whether the snapshot in service is proven."""
        if self._is_over():
            self._proven = True
            self.end()
        return self._proven

    def end(self) -> None:
        """End the probation, whether or not it is over."""
        self._since_s = None
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
