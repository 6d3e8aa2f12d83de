"""Parses the untrusted header of a safetensors file. Pure.

The format (https://github.com/huggingface/safetensors#format): 8 bytes with the header's length N,
little-endian; N bytes of JSON that give each tensor's dtype, shape and offsets; then the tensors,
without a gap. The safetensors library is not used, because it needs torch or numpy and reads the
data too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

LENGTH_BYTES = 8

HEADER_BYTES_MAX = 16 * 1024 * 1024
"""The format allows 100 MB. A tensor takes about 130 bytes, and a large LoRA has some thousands of
tensors. Parsing JSON holds the interpreter lock, so the event loop waits for it."""

_TENSORS_MAX = 200_000

_DTYPE_BITS: Mapping[str, int] = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}

FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
"""Those of matrices that an engine can add to others."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a header says about a tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = field(default=0, compare=False)
    """Position of its first byte after the header."""

    @property
    def size_bytes(self) -> int:
        """Bytes that its values take."""
        return math.prod(self.shape) * _DTYPE_BITS[self.dtype] // 8


def header_bytes(prefix: bytes, file_bytes: int) -> int:
    """How long the header is.

    Args:
        prefix: The first 8 bytes of the file, or as many as there are.
        file_bytes: Size of the whole file.

    Raises:
        ValueError: the file is too short for its header, or the header is larger than allowed.
    """
    if len(prefix) < LENGTH_BYTES:
        raise ValueError(f"truncated: {file_bytes} bytes are too few for a safetensors file")
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > HEADER_BYTES_MAX:
        raise ValueError(f"the header claims {length} bytes and at most {HEADER_BYTES_MAX} are allowed")
    if LENGTH_BYTES + length > file_bytes:
        raise ValueError(f"truncated: the header claims {length} bytes and the file has {file_bytes}")
    return length


def parse(header: bytes, data_bytes: int) -> Mapping[str, Tensor]:
    """The tensors that a header lists.

    Args:
        header: The JSON part.
        data_bytes: How many bytes follow it in the file.

    Raises:
        ValueError: it is no valid header, or does not account for exactly `data_bytes`.
    """
    if not header.startswith(b"{"):
        raise ValueError("the header is not a JSON object")
    try:
        # From bytes, Python would read UTF-16 too.
        document = json.loads(header.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("the header is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("the header is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"the header is not JSON (character {error.pos})") from None
    _check_metadata(document.pop("__metadata__", None))
    if len(document) > _TENSORS_MAX:
        raise ValueError(f"the header lists {len(document)} tensors; at most {_TENSORS_MAX} are allowed")
    tensors: dict[str, Tensor] = {}
    places: list[tuple[int, int, str]] = []
    for name, entry in document.items():
        tensors[name], end = _tensor(name, entry)
        places.append((tensors[name].begin, end, name))
    _check_contiguous(places, data_bytes)
    return tensors


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("the header has the same key twice")
    return result


def _no_constant(name: str) -> object:
    raise ValueError(f"the header is not JSON ({name})")


def _check_metadata(metadata: object) -> None:
    texts = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if metadata is not None and not texts:
        raise ValueError("__metadata__ is not an object of strings")


def _tensor(name: str, entry: object) -> tuple[Tensor, int]:
    if not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
        raise ValueError(f"tensor {name!r}: the name is not Unicode")
    if not isinstance(entry, dict):
        raise ValueError(f"tensor {name!r}: not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
        raise ValueError(f"tensor {name!r}: unknown dtype")
    if not _are_sizes(shape):
        raise ValueError(f"tensor {name!r}: the shape is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r}: data_offsets is not a pair of sizes")
    begin, end = offsets
    if (end - begin) * 8 != math.prod(shape) * _DTYPE_BITS[dtype]:
        raise ValueError(f"tensor {name!r}: {end - begin} bytes do not hold {dtype} {shape}")
    return Tensor(dtype, tuple(shape), begin), end


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    # bool is a subclass of int in Python.
    return isinstance(value, list) and len(value) <= 8 and all(type(item) is int and item >= 0 for item in value)


def _check_contiguous(places: list[tuple[int, int, str]], data_bytes: int) -> None:
    position = 0
    for begin, end, name in sorted(places):
        if begin != position:
            raise ValueError(f"tensor {name!r}: begins at byte {begin}, expected {position}")
        position = end
    if position > data_bytes:
        raise ValueError(f"truncated: the tensors take {position} bytes and the file has {data_bytes} for them")
    if position < data_bytes:
        raise ValueError(f"{data_bytes - position} bytes follow the last tensor")
