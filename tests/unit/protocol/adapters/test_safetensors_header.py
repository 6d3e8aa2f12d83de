"""Valid and invalid headers of safetensors files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.adapters import safetensors_header
from protocol.adapters.safetensors_header import HEADER_BYTES_MAX, Tensor
from tests.adapter_directories import safetensors_bytes


def parse(header: object, data_bytes: int) -> Mapping[str, Tensor]:
    return safetensors_header.parse(json.dumps(header).encode(), data_bytes)


def read(content: bytes) -> Mapping[str, Tensor]:
    """The tensors of a whole file."""
    length = safetensors_header.header_bytes(content[:8], len(content))
    return safetensors_header.parse(content[8 : 8 + length], len(content) - 8 - length)


def entry(begin: int, end: int, shape: object, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_tensors_are_read() -> None:
    content = safetensors_bytes({"a": (2, 3), "b": (), "c": (0, 5)})
    assert read(content) == {"a": Tensor("F32", (2, 3)), "b": Tensor("F32", ()), "c": Tensor("F32", (0, 5))}


def test_order_of_tensors_in_the_header_does_not_matter() -> None:
    assert set(parse({"b": entry(4, 8, [1]), "a": entry(0, 4, [1])}, 8)) == {"a", "b"}


@pytest.mark.parametrize("file_bytes", [0, 7])
def test_a_file_without_a_length_is_truncated(file_bytes: int) -> None:
    with pytest.raises(ValueError, match="truncated"):
        safetensors_header.header_bytes(b"\1" * file_bytes, file_bytes)


def test_a_header_beyond_the_file_is_truncated() -> None:
    with pytest.raises(ValueError, match="truncated"):
        safetensors_header.header_bytes((100).to_bytes(8, "little"), 107)


def test_a_huge_header_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="at most"):
        safetensors_header.header_bytes((HEADER_BYTES_MAX + 1).to_bytes(8, "little"), 2**62)
    with pytest.raises(ValueError, match="at most"):
        safetensors_header.header_bytes(b"\xff" * 8, 2**63)


@pytest.mark.parametrize(
    ("header", "data_bytes", "why"),
    [
        ({"a": entry(0, 4, [1])}, 3, "truncated"),
        ({"a": entry(0, 4, [1])}, 5, "follow the last tensor"),
        ({"a": entry(4, 8, [1])}, 8, "expected 0"),
        ({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, 12, "expected 4"),
        ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, 12, "expected 8"),
        ({"a": entry(0, 4, [2])}, 4, "do not hold"),
        ({"a": entry(4, 0, [1])}, 4, "do not hold"),
        ({"a": entry(0, 4, [-1])}, 4, "shape"),
        ({"a": entry(0, 4, [True])}, 4, "shape"),
        ({"a": entry(0, 4, [1.0])}, 4, "shape"),
        ({"a": entry(0, 4, "1")}, 4, "shape"),
        ({"a": entry(0, 4, [1] * 9)}, 4, "shape"),
        ({"a": entry(0, 4, [1], "F31")}, 4, "dtype"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, 4, "data_offsets"),
        ({"a": {"dtype": "F32", "shape": [1]}}, 4, "data_offsets"),
        ({"a": 1}, 4, "not an object"),
        ([1], 0, "JSON object"),
        ("{", 0, "JSON object"),
    ],
)
def test_a_header_that_does_not_describe_the_file_is_refused(header: object, data_bytes: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(header, data_bytes)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b'{"a": }',
        b"{\xff}",
        b'{"a": 1, "a": 2}',
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"__metadata__": ' + b"[" * 100_000 + b"}",
        # What Python's reader takes, and that of the safetensors library does not.
        '{"__metadata__": {}}'.encode("utf-16-le"),
        b'{"__metadata__": {"a": 1}}',
        b'{"__metadata__": []}',
        b'{"__metadata__": {"a": NaN}}',
        b'{"\\ud800": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}',
    ],
)
def test_a_header_that_is_not_json_is_refused(header: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        safetensors_header.parse(header, 0)


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(noise: bytes) -> None:
    with contextlib.suppress(ValueError):
        read(noise)


@given(st.binary(max_size=200))
def test_any_header_is_parsed_or_refused(noise: bytes) -> None:
    with contextlib.suppress(ValueError):
        safetensors_header.parse(b"{" + noise, 0)


@given(st.data())
def test_any_truncated_file_is_refused(data: st.DataObject) -> None:
    content = safetensors_bytes({"a": (2, 3), "b": (4,)})
    size = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(ValueError, match="truncated"):
        read(content[:size])
