"""Finds values in the weights of an adapter that are not finite, or too large to stay finite. Pure.

One such value makes the engine compute NaN. NaN stays in memory that requests share, so that
requests for other adapters and for the base model get empty answers.

Only the highest byte of a value is looked at, so that a chunk is checked by a few operations in C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from protocol.adapters.safetensors_header import Tensor

LIMIT = 2**17
"""Values of this size or more are refused: they are infinite in float16, in which an engine may
hold them. Those of a trained adapter are below 10."""


def _highest_bytes(begin: int) -> bytes:
    """Highest bytes, of either sign, of values from `begin` up, infinities and NaN."""
    return bytes(byte for byte in range(256) if byte & 0x7F >= begin)


_REFUSED_HIGHEST_BYTES: Mapping[str, tuple[int, bytes]] = {
    "F64": (8, _highest_bytes(0x41)),
    "F32": (4, _highest_bytes(0x48)),
    "BF16": (2, _highest_bytes(0x48)),
    "F16": (2, _highest_bytes(0x7C)),  # 65,504 is its largest finite value
}
"""For each dtype: bytes of a value, and what its last byte (little-endian) must not be."""


class FiniteWeights:
    """Checks the bytes of a safetensors file as they are read, from the first to the last."""

    def __init__(self, tensors: Mapping[str, Tensor], *, file_bytes: int) -> None:
        """
        Args:
            tensors: What the header lists, by name. Dtypes other than floats of 16 bits or more
                are passed over.
            file_bytes: Size of the whole file, which ends with the last tensor.
        """
        data_begin = file_bytes - sum(tensor.size_bytes for tensor in tensors.values())
        self._spans: Sequence[tuple[int, int, str, str]] = sorted(
            (data_begin + tensor.begin, data_begin + tensor.begin + tensor.size_bytes, name, tensor.dtype)
            for name, tensor in tensors.items()
        )
        self._next = 0
        """The first of `_spans` that is not completely read."""
        self._position = 0

    def feed(self, chunk: bytes) -> None:
        """Check the next bytes of the file.

        Raises:
            ValueError: a value is refused. The message names the tensor.
        """
        chunk_begin, chunk_end = self._position, self._position + len(chunk)
        while self._next < len(self._spans):
            begin, end, name, dtype = self._spans[self._next]
            if begin >= chunk_end:
                break
            if dtype in _REFUSED_HIGHEST_BYTES:
                item_bytes, refused = _REFUSED_HIGHEST_BYTES[dtype]
                first = max(begin, chunk_begin)
                highest = first + (begin - 1 - first) % item_bytes
                bytes_found = chunk[highest - chunk_begin : max(end - chunk_begin, 0) : item_bytes]
                if len(bytes_found.translate(None, refused)) != len(bytes_found):
                    raise ValueError(f"tensor {name!r}: a value is not finite, or is {LIMIT} or more")
            if end > chunk_end:
                break
            self._next += 1
        self._position = chunk_end
