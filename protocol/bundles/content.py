"""A snapshot as a file: the format of data planes' disks and of exported bundles. Pure.

    magic     one line
    header    a length-delimited `Intent`: position, number of entries, signed head
    entries   so many length-delimited `Entry` messages, ordered by name
    hash      SHA-256 of everything before it

A bundle may withhold the content of API keys: their names and digests are there, and their blobs
are empty. So the root digest and its signature can still be verified.

`read` checks the form, `check` the content: blobs, root digest and references. Neither trusts a
length or a count in the file.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Final, TypeVar

from google.protobuf.message import DecodeError, Message

from broadsheet.v1 import api_key_pb2, snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from protocol.catalog_digest import CatalogDigest, blob_digest
from protocol.signing.heads import signed_head_of
from protocol.snapshot_limits import BLOB_BYTES_MAX, ENTRIES_MAX, SNAPSHOT_BYTES_MAX
from protocol.validation import shorten

MAGIC: Final = b"broadsheet snapshot 1\n"

MESSAGE_BYTES_MAX = BLOB_BYTES_MAX + 4096
"""Of the header and of an entry: a blob, its name, type and digest."""

_HASH_BYTES = hashlib.sha256().digest_size
_VARINT_BYTES_MAX = 4
"""Of a length: enough for MESSAGE_BYTES_MAX."""

_API_KEYS = "apiKeys/"
_M = TypeVar("_M", bound=Message)

_KINDS: Mapping[str, type[Message]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        snapshot_pb2.ModelEntry,
        snapshot_pb2.AdapterEntry,
        snapshot_pb2.RouteEntry,
        snapshot_pb2.ModelRevisionEntry,
        snapshot_pb2.AdapterRevisionEntry,
        api_key_pb2.ApiKeyEntry,
    )
}


class BundleError(ValueError):
    """A file is no snapshot, is damaged, or was altered."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """UPPER_SNAKE: FORM_INVALID, HASH_MISMATCH, TOO_LARGE, BLOB_DIGEST_MISMATCH,
        ROOT_DIGEST_MISMATCH, ENTRY_INVALID or REFERENCE_MISSING. Of weights also
        FILE_DIGEST_MISMATCH and WEIGHTS_MISSING."""
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The content of a file. Its form and its hash are right; `check` says whether the rest is."""

    position: snapshot_pb2.Position
    entries: tuple[snapshot_pb2.Entry, ...]
    """Ordered by name."""
    signed_head: bytes = b""
    """The serialised SignedHead. Empty: it is not signed."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Entries by the last part of their type, such as `ModelEntry`."""
        return Counter(entry.ref.type.rpartition(".")[2] for entry in self.entries)

    @property
    def withheld(self) -> int:
        """Entries without their content."""
        return sum(map(is_withheld, self.entries))


def is_withheld(entry: snapshot_pb2.Entry) -> bool:
    """Whether the content of an API key was left out."""
    return not entry.blob and entry.ref.name.startswith(_API_KEYS)


def without_keys(entries: Sequence[snapshot_pb2.Entry]) -> tuple[snapshot_pb2.Entry, ...]:
    """The entries, those of API keys without their content."""
    return tuple(
        snapshot_pb2.Entry(ref=entry.ref) if entry.ref.name.startswith(_API_KEYS) else entry for entry in entries
    )


def header_of(position: snapshot_pb2.Position, entry_count: int, signed_head: bytes) -> pb.Intent:
    """The header of a file.

    Args:
        position: Of the snapshot.
        entry_count: Its entries.
        signed_head: The serialised SignedHead. Empty: it is not signed.
    """
    header = pb.Intent(mode=pb.Intent.MODE_FULL, to=position, entry_count=entry_count)
    if signed_head:
        header.signed_head.ParseFromString(signed_head)
    return header


def write(file: IO[bytes], bundle: Bundle) -> None:
    """Write a bundle to an empty file.

    Raises:
        OSError: It cannot be written.
    """
    digest = hashlib.sha256()
    header = header_of(bundle.position, len(bundle.entries), bundle.signed_head)
    for block in (MAGIC, _delimited(header), *map(_delimited, bundle.entries)):
        digest.update(block)
        file.write(block)
    file.write(digest.digest())


def read(file: IO[bytes]) -> Bundle:
    """Read a snapshot, whatever is in the file. What follows it is left for `weights`.

    Raises:
        BundleError: It does not have the form of a snapshot.
        OSError: It cannot be read.
    """
    reader = _Reader(file)
    if reader.take(len(MAGIC)) != MAGIC:
        raise BundleError("FORM_INVALID", "it does not begin like a snapshot of this release")
    header = _parsed(pb.Intent, reader.message(), "its header")
    if not 0 <= header.entry_count <= ENTRIES_MAX:
        raise BundleError("TOO_LARGE", f"got {header.entry_count} entries; allowed are 0 to {ENTRIES_MAX}")
    entries = tuple(_entries(reader, header.entry_count))
    expected = reader.digest()
    if reader.take(_HASH_BYTES) != expected:
        raise BundleError("HASH_MISMATCH", "it was altered: its content does not have its hash")
    return Bundle(position=header.to, entries=entries, signed_head=signed_head_of(header))


def check(bundle: Bundle) -> Mapping[str, Message]:
    """Check every blob, the root digest, and that references resolve.

    Returns:
        The message of each entry of a type that this release knows, by name. Entries without
        content are left out.

    Raises:
        BundleError: Something is not right; says what.
    """
    messages: dict[str, Message] = {}
    digest = CatalogDigest()
    for before, entry in pairwise(bundle.entries):
        if before.ref.name >= entry.ref.name:
            raise BundleError("FORM_INVALID", f"{shorten(entry.ref.name)} comes after {shorten(before.ref.name)}")
    for entry in bundle.entries:
        ref = entry.ref
        digest = digest.added(ref.name, ref.type, ref.digest)
        if is_withheld(entry):
            continue
        if blob_digest(entry.blob) != ref.digest:
            raise BundleError("BLOB_DIGEST_MISMATCH", f"the content of {shorten(ref.name)} was altered")
        kind = _KINDS.get(ref.type)
        if kind is not None:
            messages[ref.name] = _named(ref.name, _parsed(kind, entry.blob, shorten(ref.name)))
    if digest.root() != bundle.position.digest:
        raise BundleError(
            "ROOT_DIGEST_MISMATCH",
            f"the entries have root digest {digest.root().hex()}, and it says {bundle.position.digest.hex()}",
        )
    names = {entry.ref.name for entry in bundle.entries}
    for name, message in messages.items():
        for referred in _references(message):
            if referred not in names:
                raise BundleError("REFERENCE_MISSING", f"{name} refers to {shorten(referred)}, which is missing")
    return messages


class _Reader:
    """Reads pieces of a bounded size, and hashes them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def digest(self) -> bytes:
        return self._hash.digest()

    def take(self, size: int) -> bytes:
        content = self._file.read(size)
        if len(content) < size:
            raise BundleError("FORM_INVALID", "it ends too early")
        self._hash.update(content)
        return content

    def message(self) -> bytes:
        """A message with its length before it."""
        length = 0
        for place in range(_VARINT_BYTES_MAX):
            byte = self.take(1)[0]
            length |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                break
        else:
            raise BundleError("TOO_LARGE", "a length has more than 4 bytes")
        if length > MESSAGE_BYTES_MAX:
            raise BundleError("TOO_LARGE", f"got a message of {length} bytes; allowed are {MESSAGE_BYTES_MAX}")
        return self.take(length)


def _entries(reader: _Reader, count: int) -> Iterator[snapshot_pb2.Entry]:
    total = 0
    for _ in range(count):
        content = reader.message()
        total += len(content)
        if total > SNAPSHOT_BYTES_MAX:
            raise BundleError("TOO_LARGE", f"it has more than {SNAPSHOT_BYTES_MAX} bytes")
        yield _parsed(snapshot_pb2.Entry, content, "an entry")


def _parsed(kind: type[_M], content: bytes, what: str) -> _M:
    try:
        return kind.FromString(content)
    except DecodeError:
        raise BundleError("ENTRY_INVALID", f"{what} cannot be read") from None


def _named(name: str, message: Message) -> Message:
    got = getattr(message, "name", "")
    if got != name:
        raise BundleError("ENTRY_INVALID", f"{shorten(name)} holds an entry of {shorten(got)}")
    return message


def _references(message: Message) -> Iterator[str]:
    match message:
        case snapshot_pb2.AdapterEntry() | snapshot_pb2.ModelRevisionEntry():
            yield message.model
        case snapshot_pb2.AdapterRevisionEntry():
            yield message.adapter
        case snapshot_pb2.RouteEntry():
            yield from (target.resource for target in message.revision.spec.targets)
            yield from (fallback.resource for fallback in message.revision.spec.fallbacks)


def _delimited(message: Message) -> bytes:
    content = message.SerializeToString()
    length, prefix = len(content), bytearray()
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(prefix) + bytes((length,)) + content
