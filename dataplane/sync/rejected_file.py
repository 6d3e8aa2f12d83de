"""The file of rejected snapshots. Blocking: call it in a thread."""

from __future__ import annotations

import json
from collections.abc import Iterable

from dataplane.snapshot.position_check import is_complete
from dataplane.snapshot.snapshot import Position
from dataplane.sync.disk.disk import Disk
from dataplane.sync.disk.text import read_text, write_text
from dataplane.sync.events import Rejected
from dataplane.sync.rejections import REJECTED_MAX


def write_rejected(disk: Disk, path: str, rejected: Iterable[Rejected]) -> None:
    """Replace the file by these rejections, the oldest first.

    Raises:
        OSError: It could not be written. The old file is unchanged.
    """
    fields = [
        {
            "store_uid": item.position.store_uid,
            "revision": item.position.revision,
            "digest": item.position.digest.hex(),
            "reason": item.reason,
            "message": item.message,
        }
        for item in rejected
    ]
    write_text(disk, path, json.dumps(fields, indent=1))


def read_rejected(disk: Disk, path: str) -> list[Rejected]:
    """Return the newest rejections in the file, the oldest first; none without a file.

    Raises:
        OSError: The file cannot be read.
        ValueError: Its content is invalid.
    """
    if not disk.exists(path):
        return []
    try:
        fields = json.loads(read_text(disk, path))
        return [_from_json(item) for item in fields[-REJECTED_MAX:]]
    except (TypeError, KeyError) as error:
        raise ValueError(f"a rejection is malformed: {error!r}") from error


def _from_json(fields: dict[str, object]) -> Rejected:
    revision = fields["revision"]
    if not isinstance(revision, int):
        raise ValueError(f"got revision {revision!r}")
    position = Position(
        store_uid=str(fields["store_uid"]), revision=revision, digest=bytes.fromhex(str(fields["digest"]))
    )
    if not is_complete(position):
        raise ValueError("a rejected position is incomplete")
    return Rejected(position=position, reason=str(fields["reason"]), message=str(fields["message"]))
