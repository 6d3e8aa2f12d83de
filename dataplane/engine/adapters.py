"""Adapter weights on an engine replica's disk: fetched once, and verified against the catalog.

A directory of the cache is named after the digest of its content and never changed. So verified
weights stay verified, whatever happens to the files that they were copied from.

The control plane has checked the values of weights and scales. They are checked again, because a
single NaN spoils the answers to everybody who shares the engine.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from broadsheet.v1 import adapter_pb2, snapshot_pb2
from dataplane.errors import AdapterError
from protocol import sources
from protocol.adapters import safetensors_header
from protocol.adapters.adapter_digest import weights_digest
from protocol.adapters.finite_weights import FiniteWeights
from protocol.adapters.lora_scale import check_scales
from protocol.transport.source_files import open_regular

_CONFIG_BYTES_MAX = 1024 * 1024

_COPY_BYTES = 1024 * 1024


class AdapterCache:
    """Verified adapter directories below `root`, which a single process uses."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._locks: dict[bytes, asyncio.Lock] = {}

    async def ensure(self, entry: snapshot_pb2.AdapterEntry) -> Path:
        """The directory with the adapter's files, fetched and verified if it is missing.

        Raises:
            AdapterError: the files are missing, unreadable, or not those that were registered.
        """
        weights = entry.revision.weights
        lock = self._locks.setdefault(weights.digest, asyncio.Lock())
        async with lock:
            target = self._root / weights.digest.hex()
            if not target.is_dir():
                await asyncio.to_thread(_fetch, entry.revision.source.uri, weights, target)
            return target

    async def forget(self, digest: bytes) -> None:
        """Remove the files of an adapter that nothing in this process uses any more."""
        self._locks.pop(digest, None)
        await asyncio.to_thread(shutil.rmtree, self._root / digest.hex(), ignore_errors=True)


def _fetch(uri: str, weights: adapter_pb2.AdapterWeights, target: Path) -> None:
    if weights_digest(weights.files) != weights.digest:
        raise AdapterError("the list of files does not have the adapter's digest", reason="ADAPTER_DIGEST_MISMATCH")
    source = _local_directory(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".fetch-", dir=target.parent))
    try:
        for file in weights.files:
            _copy_verified(source, file, scratch)
            if file.path in _CHECKS:
                _check(scratch / file.path)
        os.rename(scratch, target)
    except OSError as error:
        raise AdapterError(f"{uri}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _local_directory(uri: str) -> Path:
    try:
        directory = Path(sources.file_path(uri))
    except ValueError as error:
        raise AdapterError(f"{uri}: adapters are fetched from file:/// sources only: {error}") from error
    if not directory.is_dir():
        raise AdapterError(f"{uri}: no such directory on this node", reason="ADAPTER_SOURCE_NOT_FOUND")
    return directory


def _copy_verified(source: Path, file: adapter_pb2.AdapterFile, scratch: Path) -> None:
    if Path(file.path).is_absolute() or ".." in Path(file.path).parts:
        raise AdapterError(f"{file.path}: not a path below the adapter's source")
    origin = source / file.path
    if not origin.exists():
        raise AdapterError(f"{origin}: no such file on this node", reason="ADAPTER_SOURCE_NOT_FOUND")
    copy = scratch / file.path
    copy.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    size = 0
    # Links are followed: the digest says whether they lead to what was registered.
    with open_regular(origin) as reader, copy.open("wb") as writer:
        while size <= file.size_bytes and (block := reader.read(_COPY_BYTES)):
            digest.update(block)
            size += len(block)
            writer.write(block)
    if size > file.size_bytes:
        raise AdapterError(
            f"{origin}: got more than the {file.size_bytes} bytes that were registered, with SHA-256 "
            f"{file.sha256.hex()}; register the adapter again if the change is meant",
            reason="ADAPTER_DIGEST_MISMATCH",
        )
    if size != file.size_bytes or digest.digest() != file.sha256:
        raise AdapterError(
            f"{origin}: got {size} bytes with SHA-256 {digest.hexdigest()}, registered were {file.size_bytes} bytes "
            f"with {file.sha256.hex()}; register the adapter again if the change is meant",
            reason="ADAPTER_DIGEST_MISMATCH",
        )


def _check(copy: Path) -> None:
    try:
        _CHECKS[copy.name](copy)
    except ValueError as error:
        raise AdapterError(f"{copy.name}: {error}", reason="ADAPTER_FILES_INVALID") from None


def _check_scales(config: Path) -> None:
    if config.stat().st_size > _CONFIG_BYTES_MAX:
        raise ValueError(f"larger than {_CONFIG_BYTES_MAX} bytes")
    try:
        document = json.loads(config.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    check_scales(document)


def _check_values(weights: Path) -> None:
    file_bytes = weights.stat().st_size
    with weights.open("rb") as file:
        prefix = file.read(safetensors_header.LENGTH_BYTES)
        header = file.read(safetensors_header.header_bytes(prefix, file_bytes))
        tensors = safetensors_header.parse(header, file_bytes - len(prefix) - len(header))
        values = FiniteWeights(tensors, file_bytes=file_bytes)
        file.seek(0)
        while block := file.read(_COPY_BYTES):
            values.feed(block)


_CHECKS: Mapping[str, Callable[[Path], None]] = {
    "adapter_config.json": _check_scales,
    "adapter_model.safetensors": _check_values,
}
