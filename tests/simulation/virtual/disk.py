"""A disk that loses what was not flushed, gets full, and breaks.

A file has the content that was written, and the content that a power cut leaves; a folder has such
names likewise. `virtual/files.py` gives it the interface that the data plane uses.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator, Mapping


class Cut(BaseException):
    """The process ends here. Nothing of ours catches it for good."""


class Inode:
    """The content of a file."""

    __slots__ = ("allocated", "changed", "content", "flushed")

    def __init__(self) -> None:
        self.changed = 0
        """When it was changed last, in changes of the disk."""
        self.content = b""
        self.flushed = b""
        """What a power cut leaves at least."""
        self.allocated = 0

    @property
    def size(self) -> int:
        return max(len(self.content), self.allocated)


class Disk:
    """The files of one data plane, by path. Folders exist once they are made."""

    def __init__(self) -> None:
        self.folders: dict[str, dict[str, Inode]] = {}
        self._flushed: dict[str, dict[str, Inode]] = {}
        self.read_only = False
        self._capacity: int | None = None
        self.cut_after: int | None = None
        """Changes that still happen before the power is cut; None: it is not."""
        self._changes = 0

    # -- faults ------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether nothing more fits than is there."""
        return self._capacity is not None

    def fill(self) -> None:
        """Leave no free byte."""
        self._capacity = self._used()

    def free(self) -> None:
        """Make room, and make it writable."""
        self._capacity, self.read_only = None, False

    def power_cut(self, chance: random.Random) -> None:
        """Lose what was not flushed, or part of it."""
        for path, flushed in self._flushed.items():
            names = self.folders[path]
            self.folders[path] = dict(flushed) if chance.random() < 0.5 else names
            for inode in self.folders[path].values():
                if inode.content != inode.flushed:
                    kept = chance.randrange(len(inode.content) + 1)
                    grown = inode.content.startswith(inode.flushed) and chance.random() < 0.5
                    inode.content = inode.content[: max(kept, len(inode.flushed))] if grown else inode.flushed
                inode.flushed = inode.content
            self._flushed[path] = dict(self.folders[path])
        self.cut_after = None

    def wipe(self) -> None:
        """Lose everything."""
        self.folders.clear()
        self._flushed.clear()

    def damage(self, chance: random.Random) -> str | None:
        """Flip a bit of a file, or cut its end off. Returns its name; None: there is no file."""
        found = [(path, name, inode) for path, name, inode in self._files() if inode.content]
        if not found:
            return None
        path, name, inode = chance.choice(found)
        at = chance.randrange(len(inode.content))
        if chance.random() < 0.7:
            inode.content = (
                inode.content[:at] + bytes([inode.content[at] ^ (1 << chance.randrange(8))]) + inode.content[at + 1 :]
            )
        else:
            inode.content = inode.content[:at]
        inode.flushed = inode.content
        return f"{path}/{name}"

    def _files(self) -> Iterator[tuple[str, str, Inode]]:
        for path in sorted(self.folders):
            for name in sorted(self.folders[path]):
                yield path, name, self.folders[path][name]

    def _used(self) -> int:
        return sum(inode.size for folder in self.folders.values() for inode in folder.values())

    # -- what file code does -----------------------------------------------------------------------

    def _change(self, more_bytes: int = 0) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, "Read-only file system")
        if self.cut_after is not None:
            if self.cut_after == 0:
                raise Cut
            self.cut_after -= 1
        if more_bytes > 0 and self._capacity is not None and self._used() + more_bytes > self._capacity:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._changes += 1

    def make_folder(self, path: str) -> None:
        if path not in self.folders:
            self._change()
            self.folders[path], self._flushed[path] = {}, {}

    def files(self, folder: str) -> Mapping[str, Inode]:
        """
        Raises:
            FileNotFoundError: there is no such folder.
        """
        if folder not in self.folders:
            raise FileNotFoundError(errno.ENOENT, "No such folder", folder)
        return self.folders[folder]

    def find(self, folder: str, name: str) -> Inode:
        """
        Raises:
            FileNotFoundError: there is no such file.
        """
        try:
            return self.folders[folder][name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file", f"{folder}/{name}") from None

    def create(self, folder: str, name: str, *, truncate: bool) -> Inode:
        """The file of this name, made if it is missing."""
        inode = self.folders.get(folder, {}).get(name)
        if inode is None:
            self.files(folder)
            self._change()
            inode = self.folders[folder][name] = Inode()
        elif truncate:
            self._change()
            inode.content, inode.allocated = b"", 0
        elif self.read_only:
            self._change()
        return inode

    def write(self, inode: Inode, data: bytes, *, at: int) -> None:
        """Write into a file, from its byte `at` on."""
        self._change(max(0, at + len(data) - inode.size))
        before = inode.content.ljust(at, b"\0")
        inode.content = before[:at] + data + before[at + len(data) :]
        inode.changed = self._changes

    def truncate(self, inode: Inode, size: int) -> None:
        """Cut a file off after so many bytes."""
        self._change()
        inode.content, inode.allocated = inode.content[:size], min(inode.allocated, size)
        inode.changed = self._changes

    def allocate(self, inode: Inode, size: int) -> None:
        """Reserve room for a file."""
        self._change(max(0, size - inode.size))
        inode.allocated = max(inode.allocated, size)

    def flush(self, inode: Inode) -> None:
        """Flush a file."""
        self._change()
        inode.flushed = inode.content

    def flush_folder(self, path: str) -> None:
        """Flush the names in a folder."""
        self._change()
        self._flushed[path] = dict(self.folders[path])

    def rename(self, source: tuple[str, str], target: tuple[str, str]) -> None:
        """Move a file, over another one if there is one."""
        inode = self.find(*source)
        self._change()
        inode.changed = self._changes
        del self.folders[source[0]][source[1]]
        self.folders[target[0]][target[1]] = inode

    def remove(self, folder: str, name: str) -> None:
        """Remove a file."""
        self.find(folder, name)
        self._change()
        del self.folders[folder][name]
