"""The interface of a data plane's disk (`dataplane.sync.disk`), on a virtual one.

Each call takes the same steps as on this machine's disk, so that the power can be cut between them.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

from dataplane.sync.disk.file_disk import FOLDERS
from tests.simulation.virtual.disk import Disk

_TMP_SUFFIX = ".tmp"


class VirtualDisk:
    """A folder of a virtual disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __str__(self) -> str:
        return "the virtual disk"

    def open(self) -> None:
        for folder in FOLDERS:
            self._disk.make_folder(folder)
        self._disk.create("", "LOCK", truncate=False)
        for folder in FOLDERS:
            for name in list(self._disk.folders[folder]):
                if name.endswith(_TMP_SUFFIX):
                    with suppress(OSError):
                        self._disk.remove(folder, name)

    def close(self) -> None:
        """Nobody else uses it."""

    def reader(self, path: str) -> IO[bytes]:
        return io.BytesIO(self._disk.find(*posixpath.split(path)).content)

    def exists(self, path: str) -> bool:
        folder, name = posixpath.split(path)
        return name in self._disk.folders.get(folder, {})

    def size(self, path: str) -> int:
        return self._disk.find(*posixpath.split(path)).size

    def names(self, folder: str) -> Sequence[str]:
        files = self._disk.files(folder)
        return sorted(files, key=lambda name: files[name].changed, reverse=True)

    def write(self, path: str, write: Callable[[IO[bytes]], object]) -> None:
        folder, name = posixpath.split(path)
        content = io.BytesIO()
        write(content)
        tmp = name + _TMP_SUFFIX
        inode = self._disk.create(folder, tmp, truncate=True)
        try:
            self._disk.write(inode, content.getvalue(), at=0)
            self._disk.flush(inode)
            self._disk.rename((folder, tmp), (folder, name))
        except OSError:
            with suppress(OSError):
                self._disk.remove(folder, tmp)
            raise
        self._disk.flush_folder(folder)

    def append(self, path: str, content: bytes, *, at: int) -> None:
        inode = self._disk.find(*posixpath.split(path))
        self._disk.write(inode, content, at=at)
        self._disk.flush(inode)

    def cut(self, path: str, size: int) -> None:
        inode = self._disk.find(*posixpath.split(path))
        self._disk.truncate(inode, size)
        self._disk.flush(inode)

    def move(self, path: str, to: str) -> None:
        source, target = posixpath.split(path), posixpath.split(to)
        self._disk.rename(source, target)
        for folder in (target[0], source[0]):
            self._disk.flush_folder(folder)

    def remove(self, path: str) -> None:
        folder, name = posixpath.split(path)
        if self.exists(path):
            self._disk.remove(folder, name)
        self._disk.flush_folder(folder)

    def allocate(self, path: str, size: int) -> None:
        folder, name = posixpath.split(path)
        self._disk.allocate(self._disk.create(folder, name, truncate=False), size)
