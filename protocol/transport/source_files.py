"""Opens files that a source names, without waiting and whatever they are.

Publishers choose the source. A named pipe in place of a file would block the thread that opens it,
and a device may have no end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path, *, follow_link: bool = True, directory: int | None = None) -> BinaryIO:
    """A regular file, open for reading and unbuffered.

    Args:
        path: Where it is.
        follow_link: Whether `path` may be a symbolic link.
        directory: Descriptor of the directory that `path` is relative to.

    Raises:
        OSError: It cannot be opened, or is no regular file; with ELOOP, it is a link and must not
            be one.
    """
    # Without O_NONBLOCK, a named pipe would block until a process writes to it.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_link else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return open(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def read_limited(path: Path, bytes_max: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: It cannot be read, or is no regular file.
        ValueError: It is larger than `bytes_max`.
    """
    parts = []
    room = bytes_max + 1
    with open_regular(path) as file:
        while room > 0 and (part := file.read(room)):
            parts.append(part)
            room -= len(part)
    if room == 0:
        raise ValueError(f"{path.name} is larger than {bytes_max} bytes")
    return b"".join(parts)
