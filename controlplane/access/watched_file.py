"""A file whose content is used again and again, and read anew when it was changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from controlplane import errors

_log = structlog.get_logger("controlplane.files")

T = TypeVar("T")

_OTHERS = stat.S_IRWXO | stat.S_IWGRP
"""What a file that says who may do what must not allow: anything to everybody, and changes to a
group. Its group may read it, because that is how container platforms mount secrets."""


class WatchedFile(Generic[T]):
    """What a file says. A change is noticed at the next use; one that cannot be used is logged, and
    the file goes on to count as it was before."""

    def __init__(self, path: Path, parse: Callable[[bytes], T], *, private: bool) -> None:
        """
        Args:
            path: Where it is.
            parse: Content to what it says; raises ValueError, with words for the operator.
            private: Refuse a file that others can read.

        Raises:
            errors.SetupError: it cannot be used to begin with.
        """
        self._path = path
        self._parse = parse
        self._private = private
        try:
            self._seen: tuple[int, ...] | None = _identity(os.stat(path))
            self._value = self._load()
        except (OSError, ValueError) as error:
            raise errors.SetupError(f"{path}: {_words(error)}") from error

    def current(self) -> T:
        """What the file says now."""
        try:
            seen = _identity(os.stat(self._path))
        except OSError:
            seen = None
        if seen != self._seen:
            self._seen = seen
            try:
                self._value = self._load()
                _log.info("file_reloaded", file=str(self._path))
            except (OSError, ValueError) as error:
                _log.error("file_not_reloaded", file=str(self._path), error=_words(error))
        return self._value

    def _load(self) -> T:
        with self._path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if self._private and mode & _OTHERS:
                raise ValueError(
                    f"it has mode {stat.S_IMODE(mode):04o}, so others can read or change it; chmod 600 {self._path}"
                )
            return self._parse(file.read())


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _words(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
