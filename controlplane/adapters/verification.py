"""Reads and checks the files of an adapter, off the event loop.

Nothing in them is trusted: sizes are bounded before anything is read, links and special files are
refused, and a file that changes while it is read is refused too, so that the digest is that of the
bytes that were checked.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from broadsheet.v1 import adapter_pb2, model_pb2
from controlplane import errors
from controlplane.adapters import base_weights, safetensors_file, safetensors_header
from controlplane.adapters import lora_weights as lora
from protocol import sources
from protocol.adapter_digest import weights_digest
from protocol.validation import FieldViolation, shorten

CONFIG_BYTES_MAX = 1024 * 1024
"""PEFT writes about 1 KB."""

READERS = 4
"""Adapters read at the same time; others wait. Reading is bound by the disk, not by the number of
readers."""

_HASH_CHUNK_BYTES = 1024 * 1024

_PICKLED_WEIGHTS = ("adapter_model.bin", "adapter_model.pt")


class AdapterReader:
    """Turns a source into checked weights."""

    def __init__(self, *, size_bytes_max: int, allowed_sources: Sequence[str]) -> None:
        """
        Args:
            size_bytes_max: Bytes of all files of one adapter together.
            allowed_sources: Prefixes of the URIs that adapters may have. Empty: any.
        """
        self._size_bytes_max = size_bytes_max
        self._allowed_sources = tuple(allowed_sources)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="adapter-reader")

    def close(self) -> None:
        """Give the threads back. What they are reading is left unfinished."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def read(
        self, source: model_pb2.Source, base: model_pb2.Source | None, rank_max: int
    ) -> adapter_pb2.AdapterWeights:
        """Read, check and hash the files of an adapter.

        Args:
            source: Where they are.
            base: Where the base model is. What cannot be read of it is not compared.
            rank_max: The highest rank that the base model serves.

        Raises:
            errors.InvalidArgument: they cannot be read, or not be served.
            errors.Aborted: they changed meanwhile.
        """
        directory = self.directory_of(source)
        cancelled = threading.Event()
        work = asyncio.get_running_loop().run_in_executor(
            self._threads, self._read, directory, base, rank_max, cancelled
        )
        try:
            return await work
        finally:
            # The caller may have gone: a thread cannot be cancelled, but it can look.
            cancelled.set()

    def directory_of(self, source: model_pb2.Source) -> Path:
        """The directory that a source names.

        Raises:
            errors.InvalidArgument: sources of this kind, or at this place, are not taken.
        """
        if not sources.is_file(source.uri):
            raise lora.refused(
                errors.Reason.UNSUPPORTED_SOURCE,
                f"got {shorten(source.uri)}: adapters are taken from file:///absolute/directory only",
            )
        try:
            path = Path(sources.file_path(source.uri))
        except ValueError as error:
            raise errors.InvalidArgument.of_fields(
                (FieldViolation(field="source.uri", description=f"got {shorten(source.uri)}: {error}"),)
            ) from None
        # A link in the path must not lead out of an allowed place, so both sides are compared as
        # they really are.
        if self._allowed_sources and not any(_is_below(path, prefix) for prefix in self._allowed_sources):
            raise lora.refused(
                errors.Reason.SOURCE_NOT_ALLOWED,
                f"got {shorten(source.uri)}: the control plane takes adapters from "
                f"{', '.join(self._allowed_sources)} only",
            )
        return path

    def _read(
        self, directory: Path, base: model_pb2.Source | None, rank_max: int, cancelled: threading.Event
    ) -> adapter_pb2.AdapterWeights:
        with (
            _opened(directory, lora.CONFIG_FILE) as config_file,
            _opened(directory, lora.WEIGHTS_FILE) as weights_file,
        ):
            size_bytes = _size(config_file) + _size(weights_file)
            if size_bytes > self._size_bytes_max:
                raise lora.refused(
                    errors.Reason.ADAPTER_TOO_LARGE,
                    f"the files have {size_bytes} bytes; at most {self._size_bytes_max} are allowed",
                )
            config = lora.parse_config(_config_bytes(config_file))
            _check_rank(config.rank_max, rank_max)
            tensors = _tensors(weights_file)
            summary = lora.summarised(config, tensors, base_weights.read(base) if base is not None else None)
            _check_rank(summary.rank, rank_max)
            files = [
                _hashed(lora.CONFIG_FILE, config_file, cancelled),
                _hashed(lora.WEIGHTS_FILE, weights_file, cancelled),
            ]
        return adapter_pb2.AdapterWeights(
            digest=weights_digest(files),
            files=files,
            size_bytes=size_bytes,
            rank=summary.rank,
            target_modules=summary.target_modules,
        )


def _is_below(path: Path, prefix: str) -> bool:
    real_prefix = Path(os.path.realpath(sources.file_path(prefix)))
    return Path(os.path.realpath(path)).is_relative_to(real_prefix)


def _check_rank(rank: int, rank_max: int) -> None:
    if rank > rank_max:
        raise lora.refused(
            errors.Reason.ADAPTER_RANK_TOO_HIGH,
            f"the adapter has rank {rank}; its model serves ranks up to {rank_max} (spec.lora.max_rank)",
        )


@contextmanager
def _opened(directory: Path, name: str) -> Iterator[BinaryIO]:
    """A regular file of the adapter, open for reading; on leaving, it is still the file that it
    was."""
    try:
        # Without O_NONBLOCK a named pipe would hold the thread until somebody writes to it.
        descriptor = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise lora.refused(errors.Reason.ADAPTER_SOURCE_MISSING, _missing(directory, name)) from None
    except NotADirectoryError:
        raise lora.refused(errors.Reason.ADAPTER_SOURCE_MISSING, f"{directory} is not a directory") from None
    except OSError as error:
        # ELOOP is O_NOFOLLOW's word for a link.
        link = error.errno == errno.ELOOP
        why = "is a symbolic link, which is not followed" if link else f"cannot be read ({error.strerror})"
        raise lora.refused(errors.Reason.ADAPTER_SOURCE_UNREADABLE, f"{name} {why}") from None
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        os.close(descriptor)
        raise lora.refused(errors.Reason.ADAPTER_SOURCE_UNREADABLE, f"{name} is not a regular file")
    with open(descriptor, "rb", buffering=0) as file:
        yield file
        _check_unchanged(before, os.fstat(descriptor), name)
        _check_unchanged(before, _status_of(directory / name), name)


def _missing(directory: Path, name: str) -> str:
    if not directory.exists():
        return f"{directory} does not exist on the control plane's machine"
    pickled = [other for other in _PICKLED_WEIGHTS if name == lora.WEIGHTS_FILE and (directory / other).exists()]
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


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _config_bytes(file: BinaryIO) -> bytes:
    content = safetensors_file.read_exactly(file, min(_size(file), CONFIG_BYTES_MAX + 1))
    if len(content) > CONFIG_BYTES_MAX:
        raise lora.refused(
            errors.Reason.ADAPTER_FILES_INVALID,
            f"{lora.CONFIG_FILE}: larger than {CONFIG_BYTES_MAX} bytes, which no such file is",
        )
    return content


def _tensors(file: BinaryIO) -> Mapping[str, safetensors_header.Tensor]:
    try:
        return safetensors_file.tensors_of(file)
    except ValueError as error:
        raise lora.refused(errors.Reason.ADAPTER_FILES_INVALID, f"{lora.WEIGHTS_FILE}: {error}") from None


class _Abandoned(Exception):
    """The caller has gone; nobody hears this."""


def _hashed(path: str, file: BinaryIO, cancelled: threading.Event) -> adapter_pb2.AdapterFile:
    file.seek(0)
    sha256 = hashlib.sha256()
    size_bytes = 0
    while chunk := file.read(_HASH_CHUNK_BYTES):
        if cancelled.is_set():
            raise _Abandoned
        sha256.update(chunk)
        size_bytes += len(chunk)
    return adapter_pb2.AdapterFile(path=path, size_bytes=size_bytes, sha256=sha256.digest())
