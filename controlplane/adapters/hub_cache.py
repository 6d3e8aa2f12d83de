"""The links in the cache of a model hub's client (huggingface_hub).

    models--org--name/blobs/HASH
    models--org--name/snapshots/COMMIT/adapter_config.json -> ../../blobs/HASH

Such a link is followed when it leads to a blob of the same repository, and no other link is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from protocol.transport.source_files import open_regular

_REPOSITORY_PREFIX = "models--"
_SNAPSHOTS = "snapshots"
_BLOBS = "blobs"


def blob_of(link: Path) -> Path | None:
    """Where the blob is that a link in a snapshot leads to. None: it is no such link."""
    try:
        target = os.readlink(link)
    except OSError:
        return None
    # Links further up may lead anywhere: the caller checks where they lead.
    directory = Path(os.path.realpath(link.parent))
    repository = _repository_of(directory)
    if repository is None:
        return None
    blob = Path(os.path.normpath(directory / target))
    return blob if blob.parent == repository / _BLOBS else None


def _repository_of(directory: Path) -> Path | None:
    """The repository in whose snapshots a directory is."""
    for commit in (directory, *directory.parents):
        repository = commit.parent.parent
        if commit.parent.name == _SNAPSHOTS and repository.name.startswith(_REPOSITORY_PREFIX):
            return repository
    return None


def open_blob(blob: Path) -> BinaryIO:
    """Open a blob.

    Raises:
        OSError: It cannot be opened; with ELOOP, it or its directory is a link.
    """
    # By its directory, so that this cannot be replaced by a link meanwhile.
    directory = os.open(blob.parent, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return open_regular(Path(blob.name), follow_link=False, directory=directory)
    finally:
        os.close(directory)


def is_repository(directory: Path) -> bool:
    """Whether this is a whole repository of the cache, with its snapshots below."""
    return directory.name.startswith(_REPOSITORY_PREFIX) and (directory / _SNAPSHOTS).is_dir()
