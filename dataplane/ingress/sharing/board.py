"""What a replica shows the others of its node: a page of shared memory that only it writes.

A message for each connection that opens or closes would cost as much as a request. A cell is eight
aligned bytes, so a reader never sees half a number.
"""

from __future__ import annotations

import mmap
import os

from dataplane.ingress.sharing.placement import SLOTS

_BEAT, _CONNECTIONS, _ROOM, _SENT = range(4)
_TAKEN = _SENT + SLOTS
_CELLS = _TAKEN + SLOTS
_BYTES = 8 * _CELLS


class Board:
    """The cells of one replica."""

    def __init__(self, memory: mmap.mmap, fd: int | None) -> None:
        self._memory = memory
        self._cells = memoryview(memory).cast("Q")
        self.fd = fd
        """What others map it by. None: it is another replica's."""

    @classmethod
    def create(cls) -> Board:
        """A board of this replica, in memory without a name: it ends with those who have it."""
        fd = os.memfd_create("broadsheet-ingress", os.MFD_CLOEXEC)
        os.ftruncate(fd, _BYTES)
        return cls(mmap.mmap(fd, _BYTES), fd)

    @classmethod
    def of_other(cls, fd: int) -> Board:
        """The board of another replica, to read.

        Raises:
            ValueError: It is too small.
            OSError: It cannot be mapped.
        """
        if os.fstat(fd).st_size < _BYTES:
            raise ValueError(f"board: got {os.fstat(fd).st_size} bytes, allowed are {_BYTES} and more")
        return cls(mmap.mmap(fd, _BYTES, prot=mmap.PROT_READ), None)

    def close(self) -> None:
        """Give the memory back."""
        self._cells.release()
        self._memory.close()
        if self.fd is not None:
            os.close(self.fd)

    # --- its replica ------------------------------------------------------------------------------

    def beat(self, now_ns: int) -> None:
        """Show that the replica's event loop runs."""
        self._cells[_BEAT] = now_ns

    def show(self, connections: int, room: int) -> None:
        """Show how many connections the replica has and may have; no room: it takes none."""
        self._cells[_CONNECTIONS], self._cells[_ROOM] = connections, room

    def add_sent(self, slot: int, count: int) -> None:
        """Count connections that were sent to a slot, or came back from it."""
        self._cells[_SENT + slot] += count

    def add_taken(self, slot: int) -> None:
        """Count a connection that was taken from a slot."""
        self._cells[_TAKEN + slot] += 1

    def forget_sent(self, slot: int) -> None:
        """A slot has another replica, or none."""
        self._cells[_SENT + slot] = 0

    def forget_taken(self, slot: int) -> None:
        """A slot has another replica, which has sent nothing yet."""
        self._cells[_TAKEN + slot] = 0

    # --- everybody --------------------------------------------------------------------------------

    @property
    def beat_ns(self) -> int:
        """When its event loop ran last, on the monotonic clock that all processes share."""
        return self._cells[_BEAT]

    @property
    def connections(self) -> int:
        """Open connections."""
        return self._cells[_CONNECTIONS]

    @property
    def room(self) -> int:
        """How many it may have."""
        return self._cells[_ROOM]

    def sent(self, slot: int) -> int:
        """How many it has sent to a slot."""
        return self._cells[_SENT + slot]

    def taken(self, slot: int) -> int:
        """How many it has taken from a slot."""
        return self._cells[_TAKEN + slot]
