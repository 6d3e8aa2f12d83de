"""The order of lists."""

from __future__ import annotations

import pytest

from controlplane import errors
from controlplane.listing import listing
from controlplane.listing.listing import SortField


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [("name", False)]),
        (" ", [("name", False)]),
        ("name desc", [("name", True)]),
        ("create_time", [("create_time", False), ("name", False)]),
        ("  create_time   desc  ", [("create_time", True), ("name", True)]),
        ("served_name,update_time desc", [("served_name", False), ("update_time", True), ("name", True)]),
        ("update_time desc, name, served_name", [("update_time", True), ("name", False)]),
    ],
)
def test_an_order_ends_with_the_name(text: str, expected: list[tuple[str, bool]]) -> None:
    assert listing.parse_order(text) == tuple(SortField(name=name, descending=down) for name, down in expected)


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("color", "got `color`; must be a field: name, served_name, create_time, update_time"),
        ("name,", "got ``; must be a field: name, served_name, create_time, update_time"),
        ("name asc", "got `name asc`; after a field only `desc` is allowed"),
        ("create_time desc desc", "got `create_time desc desc`; after a field only `desc` is allowed"),
        ("name, name desc", "got `name` twice; each field is allowed once"),
    ],
)
def test_the_error_of_an_invalid_order_says_what_is_allowed(text: str, description: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        listing.parse_order(text)
    assert caught.value.reason == errors.Reason.INVALID_ORDER_BY
    assert [(wrong.field, wrong.description) for wrong in caught.value.violations] == [("order_by", description)]


def test_a_cursor_has_what_is_sorted_by() -> None:
    order = listing.parse_order("served_name, create_time desc")
    assert list(listing.cursor_types(order, listing.ADAPTER_NAME_PARTS)) == [str, int, str, str]
    assert list(listing.cursor_types(listing.BY_NAME, listing.MODEL_NAME_PARTS)) == [str]
