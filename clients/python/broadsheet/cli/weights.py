"""The files of adapters between a bundle and directories."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from google.protobuf.message import Message

from broadsheet.types import AdapterEntry
from protocol import sources
from protocol.bundles import weights
from protocol.bundles.content import BundleError
from protocol.transport.source_files import open_regular


def append(bundle: IO[bytes], messages: Mapping[str, Message]) -> int:
    """Append the files of all adapters with `file://` sources, as they were registered.

    Returns:
        Their bytes.

    Raises:
        BundleError: A file has other content than at registration.
        OSError: One cannot be read, or the bundle not be written.
    """
    adapters = weights.local_adapters(messages)
    places = {
        file.sha256: Path(sources.file_path(adapter.revision.source.uri), file.path)
        for adapter in adapters
        for file in adapter.revision.weights.files
    }
    weights.write_magic(bundle)
    files = weights.files_of(adapters)
    for digest, size_bytes in files.items():
        with open_regular(places[digest]) as source:
            weights.write_file(bundle, digest, size_bytes, source)
    return sum(files.values())


def verify(bundle: IO[bytes], messages: Mapping[str, Message]) -> int | None:
    """Verify the files in a bundle, from where its weights may begin.

    Returns:
        Their bytes. None: it has no weights.

    Raises:
        BundleError: They are not those that its adapters list.
        OSError: It cannot be read.
    """
    if not weights.has_weights(bundle):
        return None
    files = weights.files_of(weights.local_adapters(messages))
    for _, blocks in weights.read_files(bundle, files):
        for _ in blocks:
            pass
    return sum(files.values())


def unpack(bundle: IO[bytes], messages: Mapping[str, Message], directory: Path) -> Mapping[str, Message]:
    """Put the files of each adapter into a directory that is named by their digest.

    Args:
        bundle: From where its weights may begin.
        messages: The entries of the bundle, by name.
        directory: Where the directories go. It is absolute.

    Returns:
        `messages`, with the sources of the adapters in these directories.

    Raises:
        BundleError: The bundle has no weights, or not those that its adapters list.
        OSError: It cannot be read, or a file not be written. What is there is whole.
    """
    if not weights.has_weights(bundle):
        raise BundleError("WEIGHTS_MISSING", "it was exported without --weights")
    adapters = weights.local_adapters(messages)
    incoming = directory / f".incoming-{os.getpid()}"
    incoming.mkdir(parents=True)
    try:
        for digest, blocks in weights.read_files(bundle, weights.files_of(adapters)):
            with (incoming / digest.hex()).open("wb") as file:
                for block in blocks:
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
        places = {adapter.name: _placed(adapter, incoming, directory) for adapter in adapters}
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return {**messages, **_moved(adapters, places)}


def _placed(adapter: AdapterEntry, incoming: Path, directory: Path) -> Path:
    place = directory / adapter.revision.weights.digest.hex()
    if place.is_dir():
        return place
    scratch = incoming / f"{place.name}.partial"
    for file in adapter.revision.weights.files:
        path = scratch / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        # Adapters may share files, and a file may be large.
        os.link(incoming / file.sha256.hex(), path)
    scratch.rename(place)
    return place


def _moved(adapters: Sequence[AdapterEntry], places: Mapping[str, Path]) -> dict[str, Message]:
    moved: dict[str, Message] = {}
    for adapter in adapters:
        entry = AdapterEntry()
        entry.CopyFrom(adapter)
        entry.revision.source.uri = f"{sources.FILE_SCHEME}{places[adapter.name]}"
        moved[adapter.name] = entry
    return moved
