"""A file that is read again when it changes."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from controlplane import errors

_log = structlog.get_logger("controlplane.files")

T = TypeVar("T")

_CHANGEABLE = stat.S_IWOTH | stat.S_IWGRP
"""Modes that a guarded file must not have: only its owner may change it. Everybody may read it,
because container platforms mount secrets with mode 0644."""


class WatchedFile(Generic[T]):
    """The parsed content of a file. A change is noticed at the next use.

    If the changed file cannot be used, that is logged, and the former content stays in use.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], T], *, guarded: bool) -> None:
        """
        Args:
            path: The file.
            parse: Parses the content. Its ValueError is shown to the operator.
            guarded: Whether to refuse a file that others can change.

        Raises:
            errors.SetupError: it cannot be used.
        """
        self._path = path
        self._parse = parse
        self._guarded = guarded
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
            if self._guarded:
                self._guard(file.fileno())
            return self._parse(file.read())

    def _guard(self, descriptor: int) -> None:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & _CHANGEABLE == stat.S_IWGRP:
            # A volume with a Kubernetes fsGroup lets its group write every file, at each mount.
            with contextlib.suppress(OSError):
                os.fchmod(descriptor, mode & ~stat.S_IWGRP)
                _log.warning("group_write_permission_removed", file=str(self._path), mode=f"{mode:04o}")
                self._seen = _identity(os.fstat(descriptor))
                return
        if mode & _CHANGEABLE:
            raise ValueError(f"it has mode {mode:04o}, so others can change it; chmod 600 {self._path}")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _message(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
