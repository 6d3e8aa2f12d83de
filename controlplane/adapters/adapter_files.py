"""Opens the files of an adapter without trusting them.

Special files are refused, and links other than those of a model hub's cache. A file that changes
while it is read is refused too, so that the digest is of the bytes that were checked.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from broadsheet.v1 import adapter_pb2
from controlplane import errors
from controlplane.adapters import hub_cache, safetensors_file
from controlplane.adapters.refusals import WEIGHTS_FILE, invalid_config, invalid_weights, refused
from protocol.adapters.finite_weights import FiniteWeights
from protocol.adapters.safetensors_header import Tensor
from protocol.transport.source_files import open_regular
from protocol.validation import FieldViolation

CONFIG_BYTES_MAX = 1024 * 1024
"""PEFT writes about 1 KB."""

_HASH_CHUNK_BYTES = 1024 * 1024

_PICKLED_WEIGHTS = ("adapter_model.bin", "adapter_model.pt")


@contextmanager
def opened(directory: Path, name: str, is_allowed: Callable[[Path], bool]) -> Iterator[BinaryIO]:
    """A regular file of the adapter, open for reading.

    Args:
        directory: The adapter.
        name: The file.
        is_allowed: Whether files may be taken from a place that a link leads to.

    Raises:
        errors.InvalidArgument: it cannot be read.
        errors.Aborted: it is another file at the end of the block than at its begin.
    """
    path = directory / name
    blob = hub_cache.blob_of(path)
    try:
        file = hub_cache.open_blob(blob) if blob and is_allowed(blob) else open_regular(path, follow_link=False)
    except FileNotFoundError:
        raise refused(errors.Reason.ADAPTER_SOURCE_MISSING, _missing(directory, name)) from None
    except NotADirectoryError:
        raise refused(errors.Reason.ADAPTER_SOURCE_MISSING, f"{directory} is not a directory") from None
    except OSError as error:
        raise refused(errors.Reason.ADAPTER_SOURCE_UNREADABLE, f"{name} {_unreadable(error)}") from None
    with file:
        before = os.fstat(file.fileno())
        yield file
        _check_unchanged(before, os.fstat(file.fileno()), name)
        _check_unchanged(before, _status_of(hub_cache.blob_of(path) or path), name)


def _unreadable(error: OSError) -> str:
    if error.errno == errno.EINVAL:
        return "is not a regular file"
    if error.errno != errno.ELOOP:  # which means a link
        return f"cannot be read ({error.strerror})"
    return (
        "is a symbolic link, and links are followed in a model hub's cache only: from snapshots/COMMIT to a file in "
        "blobs of the same repository, at an allowed place; give a directory that has the file itself"
    )


def _missing(directory: Path, name: str) -> str:
    if not directory.exists():
        return f"{directory} does not exist on the control plane's machine"
    if hub_cache.is_repository(directory):
        return f"{directory} is a repository of a model hub's cache; give the directory of a commit in its snapshots"
    pickled = [other for other in _PICKLED_WEIGHTS if name == WEIGHTS_FILE and (directory / other).exists()]
    if pickled:
        return (
            f"{name} does not exist; {pickled[0]} is not taken, because loading it could run code: save as safetensors"
        )
    return f"{name} does not exist in {directory}"


def _status_of(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def _check_unchanged(before: os.stat_result, after: os.stat_result | None, name: str) -> None:
    if after is None or _identity(before) != _identity(after):
        raise errors.Aborted(
            errors.Reason.ADAPTER_FILES_CHANGED,
            f"{name} changed while it was read; try again when it is completely written",
            violations=(FieldViolation(field="source.uri", description=f"{name} changed while it was read"),),
        )


def _identity(status: os.stat_result) -> tuple[int, int, int, int, int]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def config_bytes(file: BinaryIO) -> bytes:
    """The content of adapter_config.json.

    Raises:
        errors.InvalidArgument: it is too large.
    """
    content = safetensors_file.read_exactly(file, min(size_of(file), CONFIG_BYTES_MAX + 1))
    if len(content) > CONFIG_BYTES_MAX:
        raise invalid_config(f"larger than {CONFIG_BYTES_MAX} bytes, which no such file is")
    return content


def tensors_in(file: BinaryIO) -> Mapping[str, Tensor]:
    """The tensors that adapter_model.safetensors lists, by name.

    Raises:
        errors.InvalidArgument: the file is damaged.
    """
    try:
        return safetensors_file.tensors_of(file)
    except ValueError as error:
        raise invalid_weights(str(error)) from None


class Abandoned(Exception):
    """The caller was cancelled. Raised in a thread whose result is dropped."""


def hashed(
    path: str, file: BinaryIO, cancelled: threading.Event, weights: FiniteWeights | None = None
) -> adapter_pb2.AdapterFile:
    """Hash a file of an adapter, and check its values if it is its weights.

    Args:
        path: Its name in the adapter.
        file: Open for reading.
        cancelled: Set when the result is no longer wanted.
        weights: Checks the same bytes that are hashed; None: the file is not the weights.

    Raises:
        Abandoned: `cancelled` was set.
        errors.InvalidArgument: a value is not finite.
    """
    file.seek(0)
    sha256 = hashlib.sha256()
    size_bytes = 0
    while chunk := file.read(_HASH_CHUNK_BYTES):
        if cancelled.is_set():
            raise Abandoned
        if weights is not None:
            _check_values(weights, chunk)
        sha256.update(chunk)
        size_bytes += len(chunk)
    return adapter_pb2.AdapterFile(path=path, size_bytes=size_bytes, sha256=sha256.digest())


def _check_values(weights: FiniteWeights, chunk: bytes) -> None:
    try:
        weights.feed(chunk)
    except ValueError as error:
        raise invalid_weights(str(error)) from None
