"""Reads the header of a safetensors file, not its data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import BinaryIO

from protocol.adapters import safetensors_header
from protocol.adapters.safetensors_header import Tensor


def tensors_of(file: BinaryIO) -> Mapping[str, Tensor]:
    """The tensors that the header of a safetensors file lists.

    Raises:
        ValueError: it is not a complete safetensors file.
        OSError: it cannot be read.
    """
    file_bytes = os.fstat(file.fileno()).st_size
    file.seek(0)
    prefix = read_exactly(file, min(safetensors_header.LENGTH_BYTES, file_bytes))
    header = read_exactly(file, safetensors_header.header_bytes(prefix, file_bytes))
    return safetensors_header.parse(header, file_bytes - safetensors_header.LENGTH_BYTES - len(header))


def read_exactly(file: BinaryIO, size_bytes: int) -> bytes:
    """The next `size_bytes` of `file`. It may be unbuffered, so that single reads are short.

    Raises:
        ValueError: the file is too short.
    """
    parts = []
    while size_bytes > 0:
        part = file.read(size_bytes)
        if not part:
            raise ValueError("truncated while it was read")
        parts.append(part)
        size_bytes -= len(part)
    return b"".join(parts)
