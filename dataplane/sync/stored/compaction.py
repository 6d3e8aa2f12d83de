"""Writes the newest snapshot as a new base, beside whoever appends to the old log meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import IO

from dataplane.snapshot.snapshot import Snapshot
from dataplane.sync.disk.disk import Disk
from dataplane.sync.snapshot_file import write_snapshot
from dataplane.sync.stored.names import in_snapshots, snapshot_name

Background = Callable[[Callable[[], None]], Callable[[], None]]
"""Starts the given work and returns at once. What it returns waits until the work has ended."""


def in_a_thread(work: Callable[[], None]) -> Callable[[], None]:
    """Run `work` in a thread of its own, which does not keep the process alive."""
    thread = threading.Thread(target=work, name="compaction", daemon=True)
    thread.start()
    return thread.join


class Stopped(Exception):
    """The new base is no longer wanted."""


class Compaction:
    """The new base of one compaction. `stop` may be called from another thread than `write`."""

    def __init__(self, disk: Disk, snapshot: Snapshot) -> None:
        """
        Args:
            disk: Where the base is written.
            snapshot: The newest snapshot when the compaction begins.
        """
        self.path = in_snapshots(snapshot_name(snapshot.position))
        self._disk = disk
        self._snapshot = snapshot
        self._stopped = False

    def stop(self) -> None:
        """Let `write` end soon. A base that is written already stays until the next pruning."""
        self._stopped = True

    def write(self) -> int:
        """Write the base durably, and return its size in bytes.

        Raises:
            OSError: It could not be written.
            Stopped: `stop` was called.
        """
        try:
            self._disk.write(self.path, lambda file: write_snapshot(_Stoppable(file, self), self._snapshot))
        except OSError as error:
            if self._stopped:
                raise Stopped from error
            raise
        return self._disk.size(self.path)

    def write_block(self, file: IO[bytes], block: bytes) -> None:
        """Write one block of the base, unless `stop` was called."""
        if self._stopped:
            raise Stopped
        file.write(block)


class _Stoppable:
    def __init__(self, file: IO[bytes], compaction: Compaction) -> None:
        self._file = file
        self._compaction = compaction

    def write(self, block: bytes, /) -> None:
        self._compaction.write_block(self._file, block)
