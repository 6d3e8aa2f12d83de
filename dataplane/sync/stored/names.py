"""The names of the files of a data plane. Pure."""

from __future__ import annotations

import hashlib
import re

from dataplane.snapshot.snapshot import Position

CURRENT = "CURRENT"
PREVIOUS = "PREVIOUS"
SNAPSHOTS = "snapshots"
ASIDE = "aside"

_SNAPSHOT = ".snapshot"
_LOG = ".log"
_SNAPSHOT_NAME = re.compile(rf"[0-9]{{20}}-[0-9a-f]{{32}}\{_SNAPSHOT}")


def snapshot_name(position: Position) -> str:
    """The name of the file with the whole snapshot at `position`. PROBATION has it too."""
    # Includes the store: the empty catalogs of two stores have the same revision and digest.
    identity = hashlib.sha256(position.store_uid.encode("utf-8") + b"\0" + position.digest).hexdigest()
    return f"{position.revision:020d}-{identity[:32]}{_SNAPSHOT}"


def is_snapshot_name(name: str) -> bool:
    """Whether a file with this name may be a whole snapshot."""
    return _SNAPSHOT_NAME.fullmatch(name) is not None


def log_name(name: str) -> str:
    """The name of the log of the changes that follow the snapshot file `name`."""
    return name.removesuffix(_SNAPSHOT) + _LOG


def in_snapshots(name: str) -> str:
    """The path of a file with this name."""
    return f"{SNAPSHOTS}/{name}"
