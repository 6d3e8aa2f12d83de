"""What a disk holds after a process was killed, or the power was cut, at any of its steps.

A step is a call that changes the disk: a write, a flush, a rename, a removal. A killed process
leaves everything that it did. After a power cut, a file has the content of its last flush, and a
folder the names of its last flush.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Cut(BaseException):
    """The process ends here. Nothing of ours catches it for good."""


class CutDisk:
    """Counts the steps below a folder, and ends the process before one of them."""

    def __init__(self, root: Path, *, cut_before: int | None = None) -> None:
        """
        Args:
            root: The folder that is watched. It is taken to be flushed at first.
            cut_before: The step before which `Cut` is raised; None: none.
        """
        self.steps: list[str] = []
        self._root = root
        self._cut_before = cut_before
        self._flushed_files: dict[int, bytes] = {}
        self._flushed_folders: dict[Path, dict[str, int]] = {}
        self._frozen: Callable[[Path], None] | None = None
        for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            self._flush_folder(folder)
            for path in folder.iterdir():
                if path.is_file():
                    self._flushed_files[path.stat().st_ino] = path.read_bytes()

    @contextmanager
    def watching(self, image: Path, *, power_cut: bool) -> Iterator[None]:
        """Watch the steps of the block. At the cut, what is left is written to `image`."""
        with pytest.MonkeyPatch.context() as patch:
            for owner, name, step in _STEPS:
                patch.setattr(owner, name, self._counted(getattr(owner, name), name, step))
            self._frozen = self._write_flushed if power_cut else self._write_all
            self._image = image
            yield

    def _counted(self, call: Callable[..., Any], name: str, path_of: Callable[..., Path]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            path = path_of(*arguments)
            if self._root not in (path, *path.parents):
                return call(*arguments, **named)
            if len(self.steps) == self._cut_before and self._frozen is not None:
                self._frozen(self._image)
                self._frozen = None  # what cleans up after the exception comes too late
                raise Cut
            self.steps.append(f"{name} {path.relative_to(self._root)}")
            result = call(*arguments, **named)
            if name == "fsync":
                self._flush(path)
            return result

        return counted

    def _flush(self, path: Path) -> None:
        if path.is_dir():
            self._flush_folder(path)
        else:
            self._flushed_files[path.stat().st_ino] = path.read_bytes()

    def _flush_folder(self, folder: Path) -> None:
        self._flushed_folders[folder] = {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()}

    def _write_all(self, image: Path) -> None:
        shutil.copytree(self._root, image)

    def _write_flushed(self, image: Path) -> None:
        for folder, names in self._flushed_folders.items():
            made = image / folder.relative_to(self._root)
            made.mkdir(parents=True, exist_ok=True)
            for name, inode in names.items():
                (made / name).write_bytes(self._flushed_files.get(inode, b""))


def _opened(path: Any, *_: Any) -> Path:
    return Path(path)


def _descriptor(descriptor: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


_STEPS: tuple[tuple[Any, str, Callable[..., Path]], ...] = (
    (os, "open", _opened),
    (os, "fsync", _descriptor),
    (Path, "replace", _opened),
    (Path, "unlink", _opened),
)
