"""The calls of the real file code, on a virtual disk: paths, descriptors and files."""

from __future__ import annotations

import errno
import io
import os
import posixpath
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from tests.simulation.virtual.disk import Disk, Inode


class VirtualPath:
    """The part of `pathlib.Path` that the data plane's directory uses."""

    __slots__ = ("_path", "disk")

    def __init__(self, disk: Disk, path: str) -> None:
        self.disk = disk
        self._path = path

    def __truediv__(self, name: str) -> VirtualPath:
        return VirtualPath(self.disk, posixpath.join(self._path, name))

    def __str__(self) -> str:
        return self._path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VirtualPath) and other._path == self._path

    def __hash__(self) -> int:
        return hash(self._path)

    @property
    def name(self) -> str:
        return posixpath.basename(self._path)

    @property
    def parent(self) -> VirtualPath:
        return VirtualPath(self.disk, posixpath.dirname(self._path))

    @property
    def place(self) -> tuple[str, str]:
        return posixpath.dirname(self._path), self.name

    def with_name(self, name: str) -> VirtualPath:
        return self.parent / name

    def mkdir(self, *, parents: bool, exist_ok: bool) -> None:
        assert parents, "the directory makes its parents"
        assert exist_ok, "the directory may exist"
        self.disk.make_folder(self._path)

    def exists(self) -> bool:
        folder, name = self.place
        return self._path in self.disk.folders or name in self.disk.folders.get(folder, {})

    def iterdir(self) -> Iterator[VirtualPath]:
        if self._path not in self.disk.folders:
            raise FileNotFoundError(errno.ENOENT, "No such folder", self._path)
        return iter([self / name for name in sorted(self.disk.folders[self._path])])

    def glob(self, pattern: str) -> Iterator[VirtualPath]:
        return (path for path in self.iterdir() if path.name.endswith(pattern.removeprefix("*")))

    def stat(self) -> Any:
        inode = self.disk.find(*self.place)
        return SimpleNamespace(st_size=inode.size, st_ctime_ns=self.disk.changes)

    def open(self, mode: str) -> VirtualFile:
        folder, name = self.place
        if mode == "ab":
            return VirtualFile(self.disk, self.disk.create(folder, name, truncate=False))
        assert mode == "rb", mode
        return VirtualFile(self.disk, self.disk.find(folder, name))

    def read_bytes(self) -> bytes:
        return self.disk.find(*self.place).content

    def read_text(self, encoding: str) -> str:
        return self.read_bytes().decode(encoding)

    def replace(self, target: VirtualPath) -> None:
        self.disk.rename(self.place, target.place)

    def unlink(self, *, missing_ok: bool = False) -> None:
        if not missing_ok or self.exists():
            self.disk.remove(*self.place)


class VirtualFile(io.BytesIO):
    """An open file. What is written is appended at once: the file code writes from start to end."""

    def __init__(self, disk: Disk, inode: Inode) -> None:
        super().__init__(inode.content)
        self.disk = disk
        self.inode = inode

    def write(self, data: Any) -> int:
        self.disk.write(self.inode, bytes(data))
        return len(data)

    def fileno(self) -> int:
        return self  # type: ignore[return-value]  # `VirtualOs` takes it for a descriptor


class VirtualOs:
    """The part of `os` that durable writes use. Descriptors are files or folders."""

    O_WRONLY, O_CREAT, O_TRUNC, O_CLOEXEC = os.O_WRONLY, os.O_CREAT, os.O_TRUNC, os.O_CLOEXEC
    O_RDONLY, O_DIRECTORY = os.O_RDONLY, os.O_DIRECTORY

    @staticmethod
    def open(path: VirtualPath, flags: int, mode: int = 0) -> VirtualFile | VirtualPath:
        if flags & os.O_DIRECTORY:
            return path
        inode = path.disk.create(*path.place, truncate=bool(flags & os.O_TRUNC))
        return VirtualFile(path.disk, inode)

    @staticmethod
    def fsync(descriptor: VirtualFile | VirtualPath) -> None:
        if isinstance(descriptor, VirtualPath):
            descriptor.disk.flush_folder(str(descriptor))
        else:
            descriptor.disk.flush(descriptor.inode)

    @staticmethod
    def fstat(descriptor: VirtualFile) -> Any:
        return SimpleNamespace(st_size=descriptor.inode.size)

    @staticmethod
    def posix_fallocate(descriptor: VirtualFile, offset: int, size: int) -> None:
        descriptor.disk.allocate(descriptor.inode, offset + size)

    @staticmethod
    def close(descriptor: VirtualFile | VirtualPath) -> None:
        """Nothing is held."""


def virtual_open(descriptor: VirtualFile, mode: str) -> VirtualFile:
    """`open` of a descriptor."""
    assert mode == "wb", mode
    return descriptor
