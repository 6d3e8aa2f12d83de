"""The digest that identifies the weights of an adapter. Pure.

The control plane computes it when an adapter is registered. Every data plane computes it again from
the files that it fetched, and serves them only if both agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from broadsheet.v1 import adapter_pb2


def weights_digest(files: Iterable[adapter_pb2.AdapterFile]) -> bytes:
    """SHA-256 over the list of files: `AdapterWeights.digest` of adapter.proto, 32 bytes.

    The hashed text has a line `{sha256 in hex} {size in bytes} {path}` for each file, ended by a
    line feed. The files are in the order of the UTF-8 bytes of their paths.

    Raises:
        ValueError: A path has a line feed or occurs twice: two lists could have the same digest.
    """
    ordered = sorted(files, key=lambda file: file.path.encode("utf-8"))
    paths = [file.path for file in ordered]
    if len(set(paths)) != len(paths):
        raise ValueError("adapter files: the same path twice")
    if any("\n" in path for path in paths):
        raise ValueError("adapter files: a line feed in a path")
    lines = (f"{file.sha256.hex()} {file.size_bytes} {file.path}\n" for file in ordered)
    return hashlib.sha256("".join(lines).encode("utf-8")).digest()
