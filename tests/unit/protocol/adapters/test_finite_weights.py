from __future__ import annotations

import math
import struct

import pytest

from protocol.adapters import safetensors_header
from protocol.adapters.finite_weights import FiniteWeights
from tests.adapter_directories import safetensors_bytes

SHAPES = {"first": (2, 3), "none": (0, 4), "second": (5,), "last": (1,)}
VALUES = 12


def encoded(dtype: str, value: float) -> bytes:
    """A value, little-endian."""
    if dtype == "BF16":
        return struct.pack("<f", value)[2:]
    return struct.pack({"F64": "<d", "F32": "<f", "F16": "<e"}[dtype], value)


def check(content: bytes, chunk_bytes: int) -> None:
    length = safetensors_header.header_bytes(content[:8], len(content))
    tensors = safetensors_header.parse(content[8 : 8 + length], len(content) - 8 - length)
    weights = FiniteWeights(tensors, file_bytes=len(content))
    for begin in range(0, len(content), chunk_bytes):
        weights.feed(content[begin : begin + chunk_bytes])


def with_value(dtype: str, index: int, value: bytes) -> bytes:
    content = bytearray(safetensors_bytes(SHAPES, dtype=dtype, item_bytes=len(value)))
    position = len(content) - (VALUES - index) * len(value)
    content[position : position + len(value)] = value
    return bytes(content)


@pytest.mark.parametrize("chunk_bytes", [1, 3, 8, 1000])
@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16", "F16"])
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_found_wherever_it_is(dtype: str, value: float, chunk_bytes: int) -> None:
    for index, name in ((0, "first"), (5, "first"), (6, "second"), (11, "last")):
        with pytest.raises(ValueError, match=f"'{name}': a value is not finite"):
            check(with_value(dtype, index, encoded(dtype, value)), chunk_bytes)


@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_value_that_would_be_infinite_in_float16_is_refused(dtype: str, sign: int) -> None:
    with pytest.raises(ValueError, match="131072 or more"):
        check(with_value(dtype, 3, encoded(dtype, sign * 2.0**17)), 1000)
    check(with_value(dtype, 3, encoded(dtype, sign * 130_560.0)), 1000)


@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16", "F16"])
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -0.03, 1e-7, 65_504.0, -60_000.0])
def test_finite_values_are_taken(dtype: str, value: float) -> None:
    check(with_value(dtype, 4, encoded(dtype, value)), 7)


def test_only_floats_are_looked_at() -> None:
    check(safetensors_bytes({"a": (4,)}, dtype="I32", fill=b"\xff"), 5)
    with pytest.raises(ValueError, match="not finite"):
        check(safetensors_bytes({"a": (4,)}, dtype="F32", fill=b"\xff"), 5)
