"""The file format of a snapshot on disk.

A magic line, a length-delimited `Intent` (position, number of entries, signed head), that many
length-delimited `Entry` messages, and the SHA-256 of everything before it. The hash also covers the
position, which the root digest does not.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from google.protobuf.message import DecodeError
from google.protobuf.proto import parse_length_prefixed, serialize_length_prefixed

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot

_MAGIC = b"broadsheet snapshot 1\n"
_HASH_BYTES = hashlib.sha256().digest_size
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    position: Position
    entry_count: int
    signed_head: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSnapshot:
    """The content of a snapshot file. Its hash is right; nothing else is checked."""

    position: Position
    entries: tuple[RawEntry, ...]
    signed_head: bytes = b""
    """The serialised SignedHead that it came with. Empty: none did."""


def write_snapshot(file: IO[bytes], snapshot: Snapshot) -> None:
    """Write `snapshot` to an empty file.

    Raises:
        OSError: It cannot be written.
    """
    digest = hashlib.sha256(_MAGIC)
    file.write(_MAGIC)
    header = pb.Intent(mode=pb.Intent.MODE_FULL, to=snapshot.position.to_proto(), entry_count=len(snapshot.entries))
    if snapshot.signed_head:
        header.signed_head.ParseFromString(snapshot.signed_head)
    for message in (header, *map(_entry_to_proto, snapshot.entries)):
        buffer = io.BytesIO()
        serialize_length_prefixed(message, buffer)
        digest.update(buffer.getvalue())
        file.write(buffer.getvalue())
    file.write(digest.digest())


def _entry_to_proto(entry: RawEntry) -> snapshot_pb2.Entry:
    ref = snapshot_pb2.EntryRef(name=entry.name, type=entry.type, digest=entry.digest)
    return snapshot_pb2.Entry(ref=ref, blob=entry.blob)


def read_position(path: Path) -> Position:
    """Return the position in the header of a snapshot file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a snapshot file, or it is damaged.
    """
    with path.open("rb") as file:
        _check_hash(file)
        file.seek(0)
        return _parse_header(file).position


def _parse_header(file: IO[bytes]) -> _Header:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it does not begin like a snapshot file of this release")
    try:
        intent = parse_length_prefixed(pb.Intent, cast(io.BytesIO, file))  # it accepts any buffered reader
    except DecodeError as error:
        raise ValueError("its header cannot be read") from error
    if intent is None:
        raise ValueError("its header is missing")
    signed_head = intent.signed_head.SerializeToString() if intent.HasField("signed_head") else b""
    return _Header(position=Position.from_proto(intent.to), entry_count=intent.entry_count, signed_head=signed_head)


def read_snapshot(path: Path) -> StoredSnapshot:
    """Return the content of a snapshot file, after checking its hash only.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a snapshot file, or it is damaged.
    """
    with path.open("rb") as file:
        _check_hash(file)
        file.seek(0)
        header = _parse_header(file)
        entries = tuple(_parse_entries(file, header.entry_count))
    return StoredSnapshot(position=header.position, entries=entries, signed_head=header.signed_head)


def _check_hash(file: IO[bytes]) -> None:
    remaining = os.fstat(file.fileno()).st_size - _HASH_BYTES
    if remaining < 0:
        raise ValueError("it is too short")
    digest = hashlib.sha256()
    while remaining > 0 and (block := file.read(min(_READ_BYTES, remaining))):
        digest.update(block)
        remaining -= len(block)
    if file.read() != digest.digest():
        raise ValueError("it is truncated, or was altered")


def _parse_entries(file: IO[bytes], entry_count: int) -> Iterator[RawEntry]:
    for _ in range(entry_count):
        try:
            message = parse_length_prefixed(snapshot_pb2.Entry, cast(io.BytesIO, file))
        except DecodeError as error:
            raise ValueError("an entry cannot be read") from error
        if message is None:
            raise ValueError("entries are missing")
        yield RawEntry(name=message.ref.name, type=message.ref.type, digest=message.ref.digest, blob=message.blob)
