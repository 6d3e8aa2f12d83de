"""The files of adapters in a bundle, after its snapshot. Pure.

    magic     one line
    files     for each: SHA-256 (32 bytes), size (8 bytes, big-endian), content

Which files there are is not for this part to say: the entries of the adapters list them, with
digest and size, and the signature is over the entries. Each file is there once, in the order of
the digests, also if several adapters have it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Final

from google.protobuf.message import Message

from broadsheet.v1 import snapshot_pb2
from protocol import sources
from protocol.adapters.adapter_digest import weights_digest
from protocol.bundles.content import BundleError

MAGIC: Final = b"broadsheet weights 1\n"

PATH_CHARACTERS_MAX = 1024
_DIGEST_BYTES = 32
_SIZE_BYTES = 8
_BLOCK_BYTES = 1024 * 1024

Files = Mapping[bytes, int]
"""Files by digest, each with its size in bytes."""


def local_adapters(messages: Mapping[str, Message]) -> tuple[snapshot_pb2.AdapterEntry, ...]:
    """The adapters whose files are at `file://` sources.

    Raises:
        BundleError: A path of a file could lead out of the adapter's directory, or the digest is
            not that of the list of files.
    """
    found = tuple(
        message
        for message in messages.values()
        if isinstance(message, snapshot_pb2.AdapterEntry) and sources.is_file(message.revision.source.uri)
    )
    for adapter in found:
        for file in adapter.revision.weights.files:
            _check_file(adapter.name, file.path, file.sha256, file.size_bytes)
        if _digest(adapter) != adapter.revision.weights.digest:
            raise BundleError("ENTRY_INVALID", f"the digest of {adapter.name} is not that of its files")
    return found


def files_of(adapters: Iterable[snapshot_pb2.AdapterEntry]) -> Files:
    """Every file of these adapters, in the order of the digests."""
    found = {file.sha256: file.size_bytes for adapter in adapters for file in adapter.revision.weights.files}
    return dict(sorted(found.items()))


def write_magic(file: IO[bytes]) -> None:
    """Begin the part.

    Raises:
        OSError: It cannot be written.
    """
    file.write(MAGIC)


def write_file(file: IO[bytes], digest: bytes, size_bytes: int, source: IO[bytes]) -> None:
    """Append one file.

    Raises:
        BundleError: `source` has other content.
        OSError: It cannot be read, or not be written.
    """
    file.write(digest + size_bytes.to_bytes(_SIZE_BYTES, "big"))
    for block in _verified(source, digest, size_bytes):
        file.write(block)
    if source.read(1):
        raise BundleError("FILE_DIGEST_MISMATCH", "the file is longer than at registration")


def has_weights(file: IO[bytes]) -> bool:
    """Whether the part begins where `file` is. False: the bundle ends there.

    Raises:
        BundleError: Something else follows.
        OSError: It cannot be read.
    """
    found = file.read(len(MAGIC))
    if found not in (b"", MAGIC):
        raise BundleError("FORM_INVALID", "something follows the snapshot, and it is no weights")
    return found == MAGIC


def read_files(file: IO[bytes], files: Files) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """The files after the magic line: the digest and the content of each, in blocks.

    The content of one is read to its end before the next one. It is verified with its last block,
    so nobody uses it before.

    Args:
        file: Where to read.
        files: Those that have to be there, in this order.

    Raises:
        BundleError: Others are there, or one was altered.
        OSError: It cannot be read.
    """
    for digest, size_bytes in files.items():
        head = file.read(_DIGEST_BYTES + _SIZE_BYTES)
        if head != digest + size_bytes.to_bytes(_SIZE_BYTES, "big"):
            raise BundleError("FORM_INVALID", f"the weights lack the file with digest {digest.hex()}")
        yield digest, _verified(file, digest, size_bytes)
    if file.read(1):
        raise BundleError("FORM_INVALID", "something follows the weights")


def _verified(file: IO[bytes], digest: bytes, size_bytes: int) -> Iterator[bytes]:
    found, left = hashlib.sha256(), size_bytes
    while left > 0:
        block = file.read(min(left, _BLOCK_BYTES))
        if not block:
            raise BundleError("FORM_INVALID", f"the file with digest {digest.hex()} ends too early")
        found.update(block)
        left -= len(block)
        if left:
            yield block
        elif found.digest() == digest:
            yield block
            return
        else:
            break
    if found.digest() != digest:
        raise BundleError("FILE_DIGEST_MISMATCH", f"the file with digest {digest.hex()} was altered")


def _digest(adapter: snapshot_pb2.AdapterEntry) -> bytes:
    try:
        return weights_digest(adapter.revision.weights.files)
    except ValueError as error:
        raise BundleError("ENTRY_INVALID", f"{adapter.name}: {error}") from None


def _check_file(adapter: str, path: str, digest: bytes, size_bytes: int) -> None:
    parts = path.split("/")
    if len(path) > PATH_CHARACTERS_MAX or not path.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise BundleError("ENTRY_INVALID", f"{adapter} has a file at {path[:80]!r}, which is no path below a directory")
    if len(digest) != _DIGEST_BYTES or size_bytes < 0:
        raise BundleError("ENTRY_INVALID", f"{adapter} has a file {path[:80]!r} without a digest or a size")
