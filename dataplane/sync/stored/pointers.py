"""The files that say which snapshot files count. Blocking: call it in a thread."""

from __future__ import annotations

import structlog

from dataplane.sync.disk.disk import Disk
from dataplane.sync.disk.text import read_text, write_text
from dataplane.sync.stored.names import CURRENT, PREVIOUS, SNAPSHOTS, in_snapshots, is_snapshot_name, log_name

_log = structlog.get_logger("dataplane.sync.stored.pointers")


class Pointers:
    """CURRENT and PREVIOUS. Each names a file in `snapshots/`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    @property
    def current(self) -> str | None:
        """The snapshot file whose newest point is booted. None: there is none, or it is damaged."""
        return self._read(CURRENT)

    @property
    def previous(self) -> str | None:
        """The snapshot file to go back to. None: there is none, or it is damaged."""
        return self._read(PREVIOUS)

    @property
    def lost_current(self) -> str | None:
        """What CURRENT has most likely named, if it is lost or damaged. None: nothing is there.

        Only what CURRENT and PREVIOUS name is kept, so it is the file that PREVIOUS does not name.
        A kill may have left one more, which is newer.
        """
        previous = self.previous
        try:
            names = [name for name in self._disk.names(SNAPSHOTS) if is_snapshot_name(name) and name != previous]
        except OSError:
            return None
        return max(names, default=None)

    def _read(self, pointer: str) -> str | None:
        try:
            name = read_text(self._disk, pointer).strip()
        except (OSError, ValueError):
            return None
        return name if is_snapshot_name(name) else None

    def set_current(self, name: str) -> None:
        """Let CURRENT name this file, which is complete.

        Raises:
            OSError: It could not be written. It may name either file.
        """
        if self.current != name:
            write_text(self._disk, CURRENT, name)

    def set_previous(self, name: str) -> None:
        """Let PREVIOUS name this file.

        Raises:
            OSError: It could not be written. It may name either file.
        """
        if self.previous != name:
            write_text(self._disk, PREVIOUS, name)

    def drop_useless_previous(self) -> None:
        """Remove PREVIOUS if it names what CURRENT names, or a file that is not there.

        Raises:
            OSError: It could not be removed.
        """
        previous = self.previous
        useless = previous == self.current or (previous and not self._disk.exists(in_snapshots(previous)))
        if previous is not None and useless:
            self._disk.remove(PREVIOUS)

    def prune(self) -> None:
        """Remove what neither of them names. That it cannot be is only logged."""
        current = self.current
        if current is None:  # everything would go
            return
        needed = {file for name in (current, self.previous) if name for file in (name, log_name(name))}
        try:
            for name in self._disk.names(SNAPSHOTS):
                if name not in needed:
                    self._disk.remove(in_snapshots(name))
        except OSError as error:
            _log.warning("snapshots_not_pruned", error=str(error))
