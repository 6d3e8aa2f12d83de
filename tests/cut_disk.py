"""What a disk holds after a process was killed, or the power was cut, at any of its steps.

A step is a call that changes the disk: a write, half a write, a flush, a rename, a removal. A
killed process leaves everything that it did. After a power cut, a file has the content of its last
flush, and a folder the names of its last flush; what was appended since may also be there in part.
"""

from __future__ import annotations

import enum
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.disk import Machine


class Stop(enum.Enum):
    """How the process ends."""

    KILLED = "killed"
    POWER_CUT = "power cut"
    """What was not flushed is lost."""
    TORN = "power cut, torn"
    """Half of what was appended and not flushed is there, and zeros for the rest."""


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
    def watching(self, image: Path, stop: Stop) -> Iterator[None]:
        """Watch the steps of the block. At the cut, what is left is written to `image`."""
        with pytest.MonkeyPatch.context() as patch:
            for owner, name, step in _STEPS:
                patch.setattr(owner, name, self._counted(getattr(owner, name), name, step))
            self._frozen = self._write_all if stop is Stop.KILLED else self._write_flushed
            self._torn = stop is Stop.TORN
            self._image = image
            yield

    def _counted(self, call: Callable[..., Any], name: str, path_of: Callable[..., Path]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            path = path_of(*arguments)
            if self._root not in (path, *path.parents):
                return call(*arguments, **named)
            self._step(name, path)
            if name == "pwrite":
                descriptor, content, at = arguments
                call(descriptor, content[: len(content) // 2], at)
                self._step("the other half of pwrite", path)
            result = call(*arguments, **named)
            if name in ("fsync", "fdatasync"):
                self._flush(path)
            return result

        return counted

    def _step(self, name: str, path: Path) -> None:
        if len(self.steps) == self._cut_before and self._frozen is not None:
            self._frozen(self._image)
            self._frozen = None  # what cleans up after the exception comes too late
            raise Cut
        self.steps.append(f"{name} {path.relative_to(self._root)}")

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
                flushed = self._flushed_files.get(inode, b"")
                (made / name).write_bytes(self._torn_end(folder / name, flushed) if self._torn else flushed)

    @staticmethod
    def _torn_end(path: Path, flushed: bytes) -> bytes:
        """What was flushed, with half of what was appended to it since."""
        written = path.read_bytes() if path.exists() else b""
        if not written.startswith(flushed):
            return flushed
        half = len(flushed) + (len(written) - len(flushed)) // 2
        return written[:half] + bytes(len(written) - half)


def _opened(path: Any, *_: Any) -> Path:
    return Path(path)


def _descriptor(descriptor: int, *_: Any) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


_STEPS: tuple[tuple[Any, str, Callable[..., Path]], ...] = (
    (os, "open", _opened),
    (os, "fsync", _descriptor),
    (os, "fdatasync", _descriptor),
    (os, "pwrite", _descriptor),
    (os, "ftruncate", _descriptor),
    (Path, "replace", _opened),
    (Path, "unlink", _opened),
)


def cut_everywhere(
    folder: Path, prepare: Callable[[Machine], object], work: Callable[[Machine, list[int]], object], stop: Stop
) -> list[tuple[str, list[int], Machine]]:
    """Do `work` again and again, each time cut before the next step.

    Returns:
        For each step: what it is, the revisions that `work` had acknowledged, the machine after.
    """
    left = []
    for number in range(1000):
        machine = Machine(folder / f"{number}-before")
        machine.start()
        prepare(machine)
        disk = CutDisk(machine.directory, cut_before=number)
        image, acknowledged = folder / f"{number}-after", list[int]()
        try:
            with disk.watching(image, stop):
                work(machine, acknowledged)
        except Cut:
            machine.kill()
            left.append((f"before step {number}, after {disk.steps[-1:]}", acknowledged, Machine(image)))
        else:
            machine.kill()
            assert number > 0, "no step was seen"
            return left
    raise AssertionError("the work never ends")
