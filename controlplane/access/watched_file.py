"""A file that is read again when it changes."""

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
"""Modes that a private file must not have: others may not use it, and its group may not write it.
The group may read it, because container platforms mount secrets that way."""


class WatchedFile(Generic[T]):
    """The parsed content of a file. A change is noticed at the next use.

    If the changed file cannot be used, that is logged, and the former content stays in use.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], T], *, private: bool) -> None:
        """
        Args:
            path: The file.
            parse: Parses the content. Its ValueError is shown to the operator.
            private: Whether to refuse a file that others can read.

        Raises:
            errors.SetupError: it cannot be used.
        """
        self._path = path
        self._parse = parse
        self._private = private
        try:
            self._seen: tuple[int, ...] | None = _identity(os.stat(path))
            self._value = self._load()
        except (OSError, ValueError) as error:
            raise errors.SetupError(f"{path}: {_message(error)}") from error

    def current(self) -> T:
        """The content now."""
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
                _log.error("file_not_reloaded", file=str(self._path), error=_message(error))
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


def _message(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
