"""A disk in memory, on which the power can be cut within any call."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import IO


class PowerCut(BaseException):
    """The process ends here. Nothing of ours catches it for good."""


class MemoryDisk:
    """The files of one data plane. `files` outlives the process; the lock does not.

    What a call has changed is there when it returns, as on every `Disk`. The call in which the
    power is cut has changed nothing or everything, or has appended a part.
    """

    def __init__(
        self, files: Mapping[str, bytes] | None = None, *, cut_in: int | None = None, done: float = 0.0
    ) -> None:
        """
        Args:
            files: What was on it before, by path.
            cut_in: The number of the changing call in which the power is cut, from 0; None: none.
            done: How much of that call is done: 0 to 1.
        """
        self.files: dict[str, bytes] = dict(files or {})
        """Ordered by the last change, the oldest first."""
        self.changes = 0
        """Changing calls so far."""
        self.fault: OSError | None = None
        """Raised by each changing call, before it has changed anything."""
        self._cut_in = cut_in
        self._done = done

    def _change(self, path: str, content: bytes | None) -> None:
        """Give a file this content, or remove it, unless the power is cut first."""
        if self.fault is not None:
            raise self.fault
        cut = self.changes == self._cut_in
        self.changes += 1
        if not cut or self._done == 1:
            self.files.pop(path, None)
            if content is not None:
                self.files[path] = content
        if cut:
            raise PowerCut

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _content(self, path: str) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]

    def reader(self, path: str) -> IO[bytes]:
        return io.BytesIO(self._content(path))

    def exists(self, path: str) -> bool:
        return path in self.files

    def size(self, path: str) -> int:
        return len(self._content(path))

    def names(self, folder: str) -> Sequence[str]:
        paths = (path.rpartition("/") for path in reversed(self.files))
        return [name for parent, _, name in paths if parent == folder]

    def write(self, path: str, write: Callable[[IO[bytes]], object]) -> None:
        buffer = io.BytesIO()
        write(buffer)
        self._change(path, buffer.getvalue())

    def append(self, path: str, content: bytes, *, at: int) -> None:
        before = self._content(path)[:at]
        if self.changes == self._cut_in and self.fault is None:
            self.files[path] = before + content[: int(len(content) * self._done)]
            raise PowerCut
        self._change(path, before + content)

    def cut(self, path: str, size: int) -> None:
        self._change(path, self._content(path)[:size])

    def move(self, path: str, to: str) -> None:
        content = self._content(path)
        self._change(to, content)
        self.files.pop(path)

    def remove(self, path: str) -> None:
        if path in self.files:
            self._change(path, None)

    def allocate(self, path: str, size: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.files[path] = bytes(size)
