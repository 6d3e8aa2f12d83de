"""Room that is kept on disk, so that the newest snapshot can be stored when the disk is full.

Blocking: call it in a thread.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress

import structlog

from dataplane.sync.disk.disk import Disk

RESERVE_MIN_BYTES = 1024 * 1024
"""For the small files, and for snapshots that grow."""

_SMALL_FILES_BYTES = 64 * 1024
"""For the files beside the snapshot, each of which takes a block or two while it is replaced."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_log = structlog.get_logger("dataplane.sync.reserve")


class Reserve:
    """A file of zeros that is given up when the disk is full, and made again when there is room.

    A change needs a little of it, a whole snapshot needs much.
    """

    def __init__(self, disk: Disk, path: str) -> None:
        """
        Args:
            disk: Where it is.
            path: Its file.
        """
        self._disk = disk
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
            while not self._is_large(wanted) and not self._allocate(wanted):
                if wanted == least:
                    _log.warning("no_room_reserved", bytes=wanted)
                    return
                wanted = max(wanted // 2, least)
        except OSError as error:
            _log.warning("no_room_reserved", bytes=wanted, error=str(error))

    def _is_large(self, size: int) -> bool:
        return self._disk.exists(self._path) and self._disk.size(self._path) >= size

    def _allocate(self, size: int) -> bool:
        try:
            self._disk.allocate(self._path, size)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            return False
        return True

    def with_room(self, write: Callable[[], None], *, needed: int | None = None) -> None:
        """Call `write`, and again with reserved room if the disk is full.

        Args:
            write: It may be called up to three times.
            needed: About the bytes that it writes: as much is given up first, and all of the room
                if that does not do. None: all at once.

        Raises:
            OSError: From `write`.
        """
        while True:
            try:
                return write()
            except OSError as error:
                if error.errno not in _FULL or not self._give_up(needed):
                    raise
                _log.warning("disk_full", error=str(error))
                needed = None

    def _give_up(self, needed: int | None) -> bool:
        with suppress(OSError):
            if not self._disk.exists(self._path):
                return False
            left = 0 if needed is None else self._disk.size(self._path) - max(2 * needed, _SMALL_FILES_BYTES)
            if left > 0:
                self._disk.cut(self._path, left)
            else:
                self._disk.remove(self._path)
            return True
        return False
