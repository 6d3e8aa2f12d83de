"""The revoked keys on disk: an append-only file of checksummed records. Blocking: use a thread.

A magic line, then records: the length of a payload and its CRC-32, 4 bytes each, and the payload. A
payload is a serialised `RevocationBatch` with the uids that are new, and the position after them.

An append is flushed before it counts. One that was cut off is a record that is not whole at the end
of the file: it was never acknowledged, and is dropped. Any other damage is an alarm. What can be
read stays revoked, and the control plane is asked for all revocations again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.revocations.batch import PAYLOAD_BYTES_MAX
from dataplane.snapshot.revocations.revoked_keys import NOTHING_REVOKED, Addition, RevocationsPosition
from dataplane.sync.disk.disk import Disk
from protocol.revocations import BATCH_UIDS_MAX

_MAGIC = b"broadsheet revocations 1\n"
_HEAD_BYTES = 8

SPARE_BYTES = 1024 * 1024
"""The file is written anew when it has this much, and as much again as what it holds needs."""

_UID_BYTES = 34
"""Of a uid of ours in a record."""

WithRoom = Callable[[Callable[[], None]], None]
"""Calls what it is given, and once more with the reserved room if the disk is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRevocations:
    """What the file holds."""

    key_uids: tuple[str, ...] = ()
    position: RevocationsPosition = NOTHING_REVOKED
    """Nothing, if the file is damaged: something may be missing."""
    damage: str = ""
    """What is wrong with the file; empty: nothing."""


class RevocationsFile:
    """One file, used by one process, by one thread at a time."""

    def __init__(self, disk: Disk, path: str, *, with_room: WithRoom) -> None:
        """
        Args:
            disk: Where it is.
            path: Its place.
            with_room: How to write on a full disk.
        """
        self._disk = disk
        self._path = path
        self._with_room = with_room
        self._good_bytes = 0
        """Length of what is whole. 0: the file has to be written anew."""

    def read(self) -> StoredRevocations:
        """What the file holds; nothing without a file.

        Raises:
            OSError: It cannot be read.
        """
        self._good_bytes = 0
        try:
            with self._disk.reader(self._path) as file:
                content = file.read()
        except FileNotFoundError:
            return StoredRevocations()
        if not content.startswith(_MAGIC):
            return StoredRevocations(damage="it does not begin like a file of revocations of this release")
        uids, position, damage = list[str](), NOTHING_REVOKED, ""
        good = len(_MAGIC)
        for begin, end, batch in _records(content):
            if begin != good:
                damage = damage or f"bytes {good} to {begin} were altered"
            uids += batch.key_uids
            position = RevocationsPosition(store_uid=batch.store_uid, sequence=batch.last_sequence)
            good = end
        if damage:
            return StoredRevocations(key_uids=tuple(uids), damage=damage)
        self._good_bytes = good
        return StoredRevocations(key_uids=tuple(uids), position=position)

    def has_place_for(self, addition: Addition, held: int) -> bool:
        """Whether to append it. If not, `write` is due.

        Args:
            addition: What was added last.
            held: How many uids are held, with those of `addition`.
        """
        size_max = 2 * _UID_BYTES * held + SPARE_BYTES
        return 0 < self._good_bytes <= size_max - _UID_BYTES * len(addition.key_uids)

    def append(self, addition: Addition) -> None:
        """Keep what was added, if `has_place_for` it. It is on disk when this returns.

        Raises:
            OSError: It could not be kept. `write` is due.
        """
        record = _framed(addition.key_uids, addition.position)
        good, self._good_bytes = self._good_bytes, 0
        self._with_room(lambda: self._write_at(good, record))
        self._good_bytes = good + len(record)

    def write(self, held: Sequence[str], position: RevocationsPosition) -> None:
        """Replace the file.

        Raises:
            OSError: It could not be written. It is due again.
        """
        self._good_bytes = 0
        content = _MAGIC + _framed(held, position)
        self._with_room(lambda: self._disk.write(self._path, lambda file: file.write(content)))
        self._good_bytes = len(content)

    def _write_at(self, offset: int, record: bytes) -> None:
        if self._disk.size(self._path) > offset:
            self._disk.cut(self._path, offset)
        try:
            self._disk.append(self._path, record, at=offset)
        except OSError:
            with suppress(OSError):
                self._disk.cut(self._path, offset)
            raise


def _records(content: bytes) -> Iterator[tuple[int, int, pb.RevocationBatch]]:
    """Where each whole record begins and ends, and what it holds. What is none is skipped."""
    offset = len(_MAGIC)
    while offset + _HEAD_BYTES <= len(content):
        begin = offset + _HEAD_BYTES
        end = begin + int.from_bytes(content[offset : offset + 4])
        batch = None
        if begin < end <= min(len(content), begin + PAYLOAD_BYTES_MAX):
            payload = content[begin:end]
            if zlib.crc32(payload) == int.from_bytes(content[offset + 4 : begin]):
                batch = _parsed(payload)
        if batch is None:
            offset += 1
        else:
            yield offset, end, batch
            offset = end


def _parsed(payload: bytes) -> pb.RevocationBatch | None:
    with suppress(DecodeError):
        return pb.RevocationBatch.FromString(payload)
    return None


def _framed(uids: Sequence[str], position: RevocationsPosition) -> bytes:
    """Records of uids. The last has the position: a file that is cut before it says less."""
    firsts = range(0, len(uids), BATCH_UIDS_MAX)
    parts = [uids[first : first + BATCH_UIDS_MAX] for first in firsts] or [()]
    if not uids and position == NOTHING_REVOKED:
        return b""
    return b"".join(_record(part, NOTHING_REVOKED) for part in parts[:-1]) + _record(parts[-1], position)


def _record(uids: Sequence[str], position: RevocationsPosition) -> bytes:
    batch = pb.RevocationBatch(store_uid=position.store_uid, last_sequence=position.sequence, key_uids=uids)
    payload = batch.SerializeToString(deterministic=True)
    return len(payload).to_bytes(4) + zlib.crc32(payload).to_bytes(4) + payload
