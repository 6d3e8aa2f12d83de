"""A changed body has the edits and nothing else, and is not copied when it is large."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.ingress.bodies.splice import WHOLE_BYTES_MAX, Edit, offset_in, splice
from tests.unit.dataplane.ingress.bodies.sent import sent

LARGE = bytes(range(256)) * (4 * 1024 * 1024 // 256)


@given(st.binary(max_size=40), st.lists(st.binary(max_size=3), max_size=3), st.data(), st.booleans())
def test_the_bytes_between_edits_are_those_of_the_body(
    small: bytes, news: list[bytes], data: st.DataObject, large: bool
) -> None:
    raw = small + b"x" * (WHOLE_BYTES_MAX if large else 7)
    count = 2 * len(news)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), min_size=count, max_size=count, unique=True)))
    edits = [Edit(start, end, new) for start, end, new in zip(cuts[::2], cuts[1::2], news, strict=True)]
    expected, before = b"", 0
    for start, end, new in edits:
        expected += raw[before:start] + new
        before = end
    assert sent(raw, *data.draw(st.permutations(edits))) == expected + raw[before:]


def test_a_body_without_edits_is_itself() -> None:
    assert splice(LARGE, []) is LARGE


def test_a_large_body_is_changed_without_a_copy() -> None:
    tracemalloc.start()
    try:
        content = splice(LARGE, [Edit(10, 20, b"new"), Edit(2**21, 2**21, b"more")])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10_000
    assert not isinstance(content, bytes)
    assert b"".join(content) == LARGE[:10] + b"new" + LARGE[20 : 2**21] + b"more" + LARGE[2**21 :]


@given(st.binary(max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_a_view_is_found_where_it_begins_and_not_where_equal_bytes_are(raw: bytes, start: int, end: int) -> None:
    start = min(start, len(raw))
    assert offset_in(raw, memoryview(raw)[start:end]) == start


def test_a_raw_value_of_msgspec_is_a_view_of_its_message() -> None:
    raw = b' {"b": "x", "a" :  "x" } '
    value = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])["a"]
    assert offset_in(raw, value) == raw.rindex(b'"x"')


def test_a_value_of_another_message_is_refused() -> None:
    with pytest.raises(ValueError, match="not a view"):
        offset_in(LARGE, memoryview(bytes(LARGE[:100_000])))
