"""The disk of this machine. Blocking: call it in a thread."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

from dataplane.sync.disk.disk import DirectoryInUse
from dataplane.sync.durable_files import (
    append_to_file,
    cut_file,
    move_file,
    remove_file,
    remove_partial_files,
    write_file,
)

FOLDERS = ("", "snapshots", "aside")


class FileDisk:
    """A folder, used by one process at a time. The lock is the file LOCK in it."""

    def __init__(self, root: Path) -> None:
        """
        Args:
            root: Used for nothing else; `open` creates it.
        """
        self._root = root
        self._lock: IO[bytes] | None = None

    def __str__(self) -> str:
        return str(self._root)

    def open(self) -> None:
        self.close()
        folders = [self._root / folder for folder in FOLDERS]
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            self._take_lock("ab")
        except OSError:
            with suppress(OSError):  # on a read-only disk the file can be locked, if it is there
                self._take_lock("rb")
            raise
        for folder in folders:
            remove_partial_files(folder)

    def _take_lock(self, mode: Literal["ab", "rb"]) -> None:
        lock = (self._root / "LOCK").open(mode)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise DirectoryInUse(f"{self._root} is in use by another data plane") from error
        except OSError:
            lock.close()
            raise
        self._lock = lock

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def reader(self, path: str) -> IO[bytes]:
        return (self._root / path).open("rb")

    def exists(self, path: str) -> bool:
        return (self._root / path).exists()

    def size(self, path: str) -> int:
        return (self._root / path).stat().st_size

    def names(self, folder: str) -> Sequence[str]:
        files = sorted((self._root / folder).iterdir(), key=lambda file: file.stat().st_ctime_ns, reverse=True)
        return [file.name for file in files]

    def write(self, path: str, write: Callable[[IO[bytes]], object]) -> None:
        write_file(self._root / path, write)

    def append(self, path: str, content: bytes, *, at: int) -> None:
        append_to_file(self._root / path, content, at=at)

    def cut(self, path: str, size: int) -> None:
        cut_file(self._root / path, size)

    def move(self, path: str, to: str) -> None:
        move_file(self._root / path, self._root / to)

    def remove(self, path: str) -> None:
        remove_file(self._root / path)

    def allocate(self, path: str, size: int) -> None:
        descriptor = os.open(self._root / path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
