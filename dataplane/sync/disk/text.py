"""Small files of text. Blocking: call it in a thread."""

from __future__ import annotations

from dataplane.sync.disk.disk import Disk

TEXT_BYTES_MAX = 1024 * 1024
"""More is not read. The largest such file lists 16 rejections."""


def read_text(disk: Disk, path: str) -> str:
    """The text of a file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not text.
    """
    with disk.reader(path) as file:
        return file.read(TEXT_BYTES_MAX).decode("utf-8")


def write_text(disk: Disk, path: str, text: str) -> None:
    """Replace a file by `text` and a newline.

    Raises:
        OSError: It could not be written. The old file is unchanged.
    """
    disk.write(path, lambda file: file.write(f"{text}\n".encode()))
