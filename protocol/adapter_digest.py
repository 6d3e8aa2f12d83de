"""The digest that identifies the weights of an adapter. Pure.

The control plane computes it when an adapter is registered; every data plane computes it again over
what it fetched, and serves the files only when both agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from broadsheet.v1 import adapter_pb2


def weights_digest(files: Iterable[adapter_pb2.AdapterFile]) -> bytes:
    """SHA-256 over the list of files, as `AdapterWeights.digest` in adapter.proto states it: 32
    bytes.

    For each file, ordered by path: `{sha256 in hex} {size in bytes} {path}` and a line feed. The
    order is that of the paths' UTF-8 bytes.

    Raises:
        ValueError: a path holds a line feed, or is there twice: two lists could then have the same
        digest.
    """
    ordered = sorted(files, key=lambda file: file.path.encode("utf-8"))
    paths = [file.path for file in ordered]
    if len(set(paths)) != len(paths):
        raise ValueError("adapter files: the same path twice")
    if any("\n" in path for path in paths):
        raise ValueError("adapter files: a line feed in a path")
    lines = (f"{file.sha256.hex()} {file.size_bytes} {file.path}\n" for file in ordered)
    return hashlib.sha256("".join(lines).encode("utf-8")).digest()
