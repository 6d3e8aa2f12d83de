"""Room that is kept on disk, so that the newest snapshot can be stored when the disk is full.

Blocking: call it in a thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

RESERVE_MIN_BYTES = 1024 * 1024
"""For the small files, and for snapshots that grow."""

_SMALL_FILES_BYTES = 64 * 1024
"""For the files beside the snapshot, each of which takes a block or two while it is replaced."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_log = structlog.get_logger("dataplane.sync.reserve")


class Reserve:
    """A file of zeros that is given up when the disk is full, and made again when there is room."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: Its file.
        """
        self._path = path

    def keep(self, snapshot_bytes: int) -> None:
        """Make the file large enough for one more snapshot.

        It takes less where there is less room, down to that of a snapshot of the same size. It is
        left as it is where there is not even that.

        Args:
            snapshot_bytes: Size of the newest snapshot file. The next one may be twice as large.
        """
        wanted = 2 * snapshot_bytes + RESERVE_MIN_BYTES
        least = snapshot_bytes + _SMALL_FILES_BYTES
        try:
            while not self._allocate(wanted):
                if wanted == least:
                    _log.warning("no_room_reserved", bytes=wanted)
                    return
                wanted = max(wanted // 2, least)
        except OSError as error:
            _log.warning("no_room_reserved", bytes=wanted, error=str(error))

    def _allocate(self, size: int) -> bool:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < size:
                os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            return False
        finally:
            os.close(descriptor)
        return True

    def with_room(self, write: Callable[[], None]) -> None:
        """Call `write`, and once more with the reserved room if the disk is full.

        Raises:
            OSError: From `write`.
        """
        try:
            write()
        except OSError as error:
            if error.errno not in _FULL or not self._give_up():
                raise
            _log.warning("disk_full", error=str(error))
            write()

    def _give_up(self) -> bool:
        with suppress(OSError):
            self._path.unlink()
            return True
        return False
