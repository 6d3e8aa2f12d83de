"""Files that cannot be used, kept for an operator. Blocking: call it in a thread."""

from __future__ import annotations

import structlog

from dataplane.sync.disk.disk import Disk
from dataplane.sync.stored.names import ASIDE, in_snapshots

ASIDE_MAX = 4
"""Files kept aside, the newest."""

_log = structlog.get_logger("dataplane.sync.stored.aside")


def move_aside(disk: Disk, path: str) -> None:
    """Move a file aside, if it exists. That it cannot be is only logged."""
    try:
        if disk.exists(path):
            disk.move(path, _aside(path))
        _forget_oldest(disk)
    except OSError as error:
        _log.warning("not_moved_aside", file=path, error=str(error))


def copy_end_aside(disk: Disk, name: str, *, begin: int) -> None:
    """Copy what follows byte `begin` of a file in `snapshots/`. A failure is only logged."""
    try:
        with disk.reader(in_snapshots(name)) as file:
            file.seek(begin)
            content = file.read()
        disk.write(_aside(f"{name}.{begin}"), lambda file: file.write(content))
        _forget_oldest(disk)
    except OSError as error:
        _log.warning("not_moved_aside", file=name, error=str(error))


def _aside(path: str) -> str:
    return f"{ASIDE}/{path.rpartition('/')[2]}"


def _forget_oldest(disk: Disk) -> None:
    for surplus in disk.names(ASIDE)[ASIDE_MAX:]:
        disk.remove(f"{ASIDE}/{surplus}")
