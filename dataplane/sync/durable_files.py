"""Writes files durably. Blocking: call it in a thread.

A whole file is written beside its place, flushed, and renamed into its place; then the directory is
flushed. After a power cut the file is the old one or the new one. What is appended to a file is
flushed, but not at once: after a power cut any part of it may be there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

_TMP_SUFFIX = ".tmp"


def write_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Replace the file at `path` by what `write` writes.

    Raises:
        OSError: It could not be written. The old file is unchanged.
    """
    tmp = path.with_name(path.name + _TMP_SUFFIX)
    try:
        # For this user only: a snapshot has the hashes and scopes of API keys.
        with open(os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        tmp.replace(path)
    except BaseException:
        with suppress(OSError):
            tmp.unlink()
        raise
    _flush_directory(path.parent)


def append_to_file(path: Path, content: bytes, *, at: int) -> None:
    """Write `content` into the file at `path`, from its byte `at` on.

    Raises:
        OSError: There is no such file, or it could not be written. Part of it may be.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        left = memoryview(content)
        while left:
            written = os.pwrite(descriptor, left, at)
            left, at = left[written:], at + written
        os.fdatasync(descriptor)  # which also flushes the size, and not the times
    finally:
        os.close(descriptor)


def cut_file(path: Path, size: int) -> None:
    """Shorten the file at `path` to `size` bytes.

    Raises:
        OSError: It could not be shortened.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_file(path: Path, to: Path) -> None:
    """Move the file at `path` to another folder of the same disk, and replace what is there.

    Raises:
        OSError: It could not be moved.
    """
    path.replace(to)
    for folder in (to.parent, path.parent):
        _flush_directory(folder)


def remove_file(path: Path) -> None:
    """Remove the file at `path`, if it exists.

    Raises:
        OSError: It could not be removed.
    """
    path.unlink(missing_ok=True)
    _flush_directory(path.parent)


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial_files(directory: Path) -> None:
    """Remove what interrupted writes left in `directory`."""
    for path in directory.glob(f"*{_TMP_SUFFIX}"):
        with suppress(OSError):
            path.unlink()
