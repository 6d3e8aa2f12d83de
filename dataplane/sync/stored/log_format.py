"""The file format of a log of changes, and what holds of a damaged one. Pure.

A magic line, then records. A record is a head, a payload and a hash:

    head     payload length (4 bytes), kind (1 byte), CRC-32 of these five (4 bytes)
    payload  by kind
    hash     SHA-256 of the hash before it, the head and the payload; before the first record, of
             the magic line

The hash of a record depends on all records before it, so that none can be left out, repeated or
moved. The CRC tells a length that was altered from a record that was not written to its end. The
first record is the position of the whole snapshot that the changes follow.
"""

from __future__ import annotations

import enum
import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.change import Change
from dataplane.snapshot.position_check import describe, is_complete
from dataplane.snapshot.snapshot import Position, RawEntry

MAGIC = b"broadsheet changes 1\n"
_HEAD = struct.Struct(">IBI")
_CHECKED = struct.Struct(">IB")
"""The part of the head that its CRC is of."""
_LENGTH = struct.Struct(">I")
_HASH_BYTES = hashlib.sha256().digest_size
_START = hashlib.sha256(MAGIC).digest()


class Kind(enum.IntEnum):
    """What a record is about. The numbers are on disks."""

    BASE = 1
    """The snapshot that the log begins at."""
    CHANGE = 2
    """The newest snapshot is another one from here on."""
    PROVEN = 3
    """The newest snapshot has outlived its probation."""


_KINDS = frozenset(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedChange:
    """A change as it arrived."""

    to: Position
    """Where it leads."""
    entry_count: int
    """Entries of the snapshot there."""
    change: Change
    signed_head: bytes = b""
    """The serialised SignedHead of the snapshot there. Empty: it came with none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record without its place in a log."""

    kind: Kind
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEnd:
    """Where the next record goes."""

    offset: int
    """Bytes before it."""
    hash: bytes
    """Of the record before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A snapshot that a log leads to."""

    position: Position
    logged: LoggedChange | None
    """What leads to it from the point before. None: it is the base."""
    proven: bool
    """Whether a record says that it has outlived its probation."""
    end: LogEnd
    """Of the records up to it: a log that ends here has it as its newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """The longest valid beginning of a log."""

    points: tuple[Point, ...]
    """The base first. Each begins at the one before it. Empty: not even the base can be read."""
    fault: str
    """What is wrong with the bytes after the last point; empty: there are none. For people."""
    torn: bool
    """Whether they can be the beginning of a record that was never finished."""


def base_record(position: Position) -> Record:
    """The first record of a log."""
    return Record(kind=Kind.BASE, payload=position.to_proto().SerializeToString())


def proven_record(position: Position) -> Record:
    """The newest snapshot, at `position`, has outlived its probation."""
    return Record(kind=Kind.PROVEN, payload=position.to_proto().SerializeToString())


def change_record(logged: LoggedChange) -> Record:
    """A change of the newest snapshot. The cost is proportional to the change."""
    change = logged.change
    intent = pb.Intent(
        mode=pb.Intent.MODE_DELTA,
        base=change.base.to_proto(),
        to=logged.to.to_proto(),
        entry_count=logged.entry_count,
    )
    chunk = pb.Chunk(removed=sorted(change.removed))
    for entry in change.entries:
        chunk.entries.add(
            ref=snapshot_pb2.EntryRef(name=entry.name, type=entry.type, digest=entry.digest), blob=entry.blob
        )
    parts = (intent.SerializeToString(), logged.signed_head)
    prefixed = [piece for part in parts for piece in (_LENGTH.pack(len(part)), part)]
    return Record(kind=Kind.CHANGE, payload=b"".join([*prefixed, chunk.SerializeToString()]))


def begin_log() -> tuple[bytes, LogEnd]:
    """The magic line, and where the first record goes."""
    return MAGIC, LogEnd(offset=len(MAGIC), hash=_START)


def encode(record: Record, at: LogEnd) -> tuple[bytes, LogEnd]:
    """The bytes of `record` at the end of a log, and the end after it."""
    checked = _CHECKED.pack(len(record.payload), record.kind)
    framed = checked + _LENGTH.pack(zlib.crc32(checked)) + record.payload
    digest = hashlib.sha256(at.hash + framed).digest()
    return framed + digest, LogEnd(offset=at.offset + len(framed) + _HASH_BYTES, hash=digest)


class _Torn(ValueError):
    """The bytes may be the beginning of a record."""


def recover(content: bytes, base: Position) -> Recovered:
    """Find the longest valid beginning of a log.

    Args:
        content: The bytes of the file, whatever they are.
        base: The position of the snapshot beside it.
    """
    points: list[Point] = []
    try:
        for record, end in _records(content):
            _add(points, record, end, base)
    except ValueError as error:
        return Recovered(points=tuple(points), fault=str(error), torn=isinstance(error, _Torn))
    if not points:
        return Recovered(points=(), fault="it has no record", torn=True)
    return Recovered(points=tuple(points), fault="", torn=False)


def _records(content: bytes) -> Iterator[tuple[Record, LogEnd]]:
    """The records that are whole, then a ValueError if something follows them."""
    if not content.startswith(MAGIC):
        fault = _Torn if MAGIC.startswith(content) else ValueError
        raise fault("it does not begin like a log of this release")
    end = begin_log()[1]
    while end.offset < len(content):
        record, end = _parse(content, end)
        yield record, end


def _parse(content: bytes, at: LogEnd) -> tuple[Record, LogEnd]:
    where = f"the record at byte {at.offset}"
    if len(content) - at.offset < _HEAD.size:
        raise _Torn(f"{where} ends within its head")
    length, kind, check = _HEAD.unpack_from(content, at.offset)
    if zlib.crc32(content[at.offset : at.offset + _CHECKED.size]) != check:
        # A file system may have made the file longer without having written into it.
        zeros = content.count(0, at.offset) == len(content) - at.offset
        raise (_Torn if zeros else ValueError)(f"the head of {where} was altered")
    end = at.offset + _HEAD.size + length
    digest = content[end : end + _HASH_BYTES]
    if len(digest) < _HASH_BYTES:
        raise _Torn(f"{where} has {len(content) - at.offset} of {_HEAD.size + length + _HASH_BYTES} bytes")
    if hashlib.sha256(at.hash + content[at.offset : end]).digest() != digest:
        raise ValueError(f"{where} was altered")
    if kind not in _KINDS:
        raise ValueError(f"{where} is of kind {kind}, which this release does not know")
    record = Record(kind=Kind(kind), payload=content[at.offset + _HEAD.size : end])
    return record, LogEnd(offset=end + _HASH_BYTES, hash=digest)


def _add(points: list[Point], record: Record, end: LogEnd, base: Position) -> None:
    """Add the point that a record leads to, or the mark to the newest point."""
    if bool(points) is (record.kind is Kind.BASE):
        raise ValueError(f"{record.kind.name} is record {len(points)}")
    _READERS[record.kind](points, record.payload, end, base)


def _add_base(points: list[Point], payload: bytes, end: LogEnd, base: Position) -> None:
    position = _read_position(payload)
    if position != base:
        raise ValueError(f"it follows {describe(position)}, and the snapshot beside it is {describe(base)}")
    points.append(Point(position=position, logged=None, proven=False, end=end))


def _add_proven(points: list[Point], payload: bytes, end: LogEnd, _: Position) -> None:
    position, newest = _read_position(payload), points[-1]
    if position != newest.position:
        raise ValueError(f"{describe(position)} is said to be proven, and {describe(newest.position)} is the newest")
    points[-1] = Point(position=position, logged=newest.logged, proven=True, end=end)


def _add_change(points: list[Point], payload: bytes, end: LogEnd, _: Position) -> None:
    logged, newest = _read_change(payload), points[-1].position
    if logged.change.base != newest:
        raise ValueError(f"a change of {describe(logged.change.base)} follows {describe(newest)}")
    if logged.to.store_uid != newest.store_uid or logged.to.revision <= newest.revision:
        raise ValueError(f"a change leads from {describe(newest)} to {describe(logged.to)}")
    points.append(Point(position=logged.to, logged=logged, proven=False, end=end))


_READERS: Mapping[Kind, Callable[[list[Point], bytes, LogEnd, Position], None]] = {
    Kind.BASE: _add_base,
    Kind.CHANGE: _add_change,
    Kind.PROVEN: _add_proven,
}


def _read_position(payload: bytes) -> Position:
    try:
        position = Position.from_proto(snapshot_pb2.Position.FromString(payload))
    except DecodeError as error:
        raise ValueError("a position cannot be read") from error
    if not is_complete(position):
        raise ValueError(f"the position {describe(position)} is incomplete")
    return position


def _read_change(payload: bytes) -> LoggedChange:
    try:
        intent_bytes, signed_head, rest = _split(payload)
        intent, chunk = pb.Intent.FromString(intent_bytes), pb.Chunk.FromString(rest)
    except (DecodeError, struct.error) as error:
        raise ValueError("a change cannot be read") from error
    to = Position.from_proto(intent.to)
    if not is_complete(to):
        raise ValueError(f"the position {describe(to)} is incomplete")
    entries = tuple(
        RawEntry(name=entry.ref.name, type=entry.ref.type, digest=entry.ref.digest, blob=entry.blob)
        for entry in chunk.entries
    )
    change = Change(base=Position.from_proto(intent.base), entries=entries, removed=frozenset(chunk.removed))
    return LoggedChange(to=to, entry_count=intent.entry_count, change=change, signed_head=signed_head)


def _split(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """The two length-prefixed parts of a change, and the rest."""
    parts, offset = [], 0
    for _ in range(2):
        (length,) = _LENGTH.unpack_from(payload, offset)
        offset += _LENGTH.size
        parts.append(payload[offset : offset + length])
        offset += length
    return parts[0], parts[1], payload[offset:]
