"""Which fields of two JSON objects differ."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.field_changes import ABSENT, field_changes

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from(["", "a"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("xyz"), JSON, max_size=3)


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, object, object]]:
    return [(change.path, change.before, change.after) for change in field_changes(before, after)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 4, "c": 2}}, [("a.b", 1, 4)]),
        ({}, {"a": {"b": 1}}, [("a.b", ABSENT, 1)]),
        ({"a": {}}, {}, [("a", {}, ABSENT)]),
        ({"labels": {"x/y": "1"}}, {"labels": {"x/y": "2"}}, [('labels["x/y"]', "1", "2")]),
        ({"tags": ["a"]}, {"tags": ["a", "b"]}, [("tags", ["a"], ["a", "b"])]),
        ({"t": [{"w": 1}, {"w": 2}]}, {"t": [{"w": 1}, {"w": 3}]}, [("t[1].w", 2, 3)]),
        ({"t": [{"w": 1}]}, {"t": [{"w": 1}, {"w": 3}]}, [("t[1].w", ABSENT, 3)]),
        ({"t": [{"w": 1}]}, {"t": []}, [("t[0].w", 1, ABSENT)]),
        ({"t": []}, {}, [("t", [], ABSENT)]),
        ({"a": None}, {}, [("a", None, ABSENT)]),
        ({"a": True}, {"a": 1}, [("a", True, 1)]),
        ({"a": [0]}, {"a": [False]}, [("a", [0], [False])]),
        ({"a": 1}, {"a": {"b": 1}}, [("a", 1, {"b": 1})]),
    ],
)
def test_each_field_that_differs_is_named(
    before: dict[str, Any], after: dict[str, Any], expected: list[tuple[str, object, object]]
) -> None:
    assert changes(before, after) == expected


@given(OBJECTS, OBJECTS)
def test_changes_are_exactly_where_json_differs(before: dict[str, Any], after: dict[str, Any]) -> None:
    # repr tells True from 1, and lists from objects.
    same = repr(sorted_json(before)) == repr(sorted_json(after))
    assert (changes(before, after) == []) == same
    backwards = {(path, repr(new), repr(old)) for path, old, new in changes(after, before)}
    assert {(path, repr(old), repr(new)) for path, old, new in changes(before, after)} == backwards


def sorted_json(value: object) -> object:
    if isinstance(value, dict):
        return {key: sorted_json(value[key]) for key in sorted(value)}
    return [sorted_json(item) for item in value] if isinstance(value, list) else value
