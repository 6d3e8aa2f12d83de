"""The file format of a snapshot on disk.

`protocol.bundles.content` has the same format, for people's files: it trusts nothing in them.

A magic line, a length-delimited `Intent` (position, number of entries, signed head), that many
length-delimited `Entry` messages, and the SHA-256 of everything before it. The hash also covers the
position, which the root digest does not.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Protocol, cast

from google.protobuf.message import DecodeError
from google.protobuf.proto import parse_length_prefixed, serialize_length_prefixed

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from protocol.bundles.content import MAGIC, header_of
from protocol.signing.heads import signed_head_of

_HASH_BYTES = hashlib.sha256().digest_size
_READ_BYTES = 1024 * 1024
_WRITE_BYTES = 256 * 1024


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


class Sink(Protocol):
    """Where a file is written to."""

    def write(self, block: bytes, /) -> object: ...


def write_snapshot(file: Sink, snapshot: Snapshot) -> None:
    """Write `snapshot` to an empty file.

    Raises:
        OSError: It cannot be written.
    """
    digest = hashlib.sha256()
    for block in _blocks(snapshot):
        digest.update(block)
        file.write(block)
    file.write(digest.digest())


def _blocks(snapshot: Snapshot) -> Iterator[bytes]:
    """The content without the hash, in blocks of about _WRITE_BYTES."""
    header = header_of(snapshot.position.to_proto(), len(snapshot.entries), snapshot.signed_head)
    buffer = io.BytesIO()
    buffer.write(MAGIC)
    for message in itertools.chain([header], map(_entry_to_proto, snapshot.entries)):
        serialize_length_prefixed(message, buffer)
        if buffer.tell() >= _WRITE_BYTES:
            yield buffer.getvalue()
            buffer = io.BytesIO()
    yield buffer.getvalue()


def _entry_to_proto(entry: RawEntry) -> snapshot_pb2.Entry:
    ref = snapshot_pb2.EntryRef(name=entry.name, type=entry.type, digest=entry.digest)
    return snapshot_pb2.Entry(ref=ref, blob=entry.blob)


def _parse_header(file: IO[bytes]) -> _Header:
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("it does not begin like a snapshot file of this release")
    try:
        intent = parse_length_prefixed(pb.Intent, cast(io.BytesIO, file))  # it accepts any buffered reader
    except DecodeError as error:
        raise ValueError("its header cannot be read") from error
    if intent is None:
        raise ValueError("its header is missing")
    return _Header(
        position=Position.from_proto(intent.to),
        entry_count=intent.entry_count,
        signed_head=signed_head_of(intent),
    )


def read_snapshot(file: IO[bytes]) -> StoredSnapshot:
    """Return the content of a snapshot file, after checking its hash only.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a snapshot file, or it is damaged.
    """
    _check_hash(file)
    file.seek(0)
    header = _parse_header(file)
    entries = tuple(_parse_entries(file, header.entry_count))
    return StoredSnapshot(position=header.position, entries=entries, signed_head=header.signed_head)


def _check_hash(file: IO[bytes]) -> None:
    remaining = file.seek(0, io.SEEK_END) - _HASH_BYTES
    if remaining < 0:
        raise ValueError("it is too short")
    file.seek(0)
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
