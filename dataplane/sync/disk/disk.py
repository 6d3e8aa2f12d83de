"""What the last-known-good snapshot needs of a disk.

Paths are relative to the data plane's folder, such as `CURRENT` or `snapshots/x.log`. What a call
has written is there after a power cut as soon as the call has returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import IO, Protocol

from dataplane.errors import DataPlaneError


class DirectoryInUse(DataPlaneError):
    """Another process uses the directory."""

    reason = "DIRECTORY_IN_USE"


class Disk(Protocol):
    """The files of one data plane. Every method may block, and raises OSError."""

    def open(self) -> None:
        """Create and lock the folders, and remove what interrupted writes left.

        Raises:
            DirectoryInUse: Another process has locked them.
            OSError: They cannot be created, written or locked. What is there can still be read.
        """

    def close(self) -> None:
        """Release the lock."""

    def reader(self, path: str) -> IO[bytes]:
        """Open a file to read and seek in it. The caller closes it."""

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""

    def size(self, path: str) -> int:
        """The bytes of a file."""

    def names(self, folder: str) -> Sequence[str]:
        """The names of the files in a folder, the last changed first."""

    def write(self, path: str, write: Callable[[IO[bytes]], object]) -> None:
        """Replace a file by what `write` writes, whole or not at all."""

    def append(self, path: str, content: bytes, *, at: int) -> None:
        """Write `content` into a file that exists, from its byte `at` on.

        After an error or a power cut, any part of `content` may be there.
        """

    def cut(self, path: str, size: int) -> None:
        """Shorten a file to `size` bytes."""

    def move(self, path: str, to: str) -> None:
        """Give a file another path, and replace what is there."""

    def remove(self, path: str) -> None:
        """Remove a file, if it exists."""

    def allocate(self, path: str, size: int) -> None:
        """Make a file of zeros at least `size` bytes long, and take the room for them."""
