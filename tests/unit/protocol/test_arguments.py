"""Arguments that are not UTF-8 are found and named, but not shown."""

from __future__ import annotations

import os

import pytest

from protocol.arguments import not_utf8

BROKEN = os.fsdecode(b"/data/\xff")


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["--data-dir", BROKEN], "argument 2 (--data-dir)"),
        ([f"--data-dir={BROKEN}"], "argument 1 (--data-dir)"),
        (["stop", BROKEN], "argument 2"),
        ([f"--{BROKEN}"], "argument 1"),
        (["--name", "ä 😀", "--data-dir", "/data"], None),
    ],
)
def test_the_first_argument_that_is_not_utf8_is_named(arguments: list[str], place: str | None) -> None:
    assert not_utf8(arguments, {}, "BROADSHEET_") == place


def test_variables_with_the_prefix_are_looked_at_and_no_others() -> None:
    assert not_utf8([], {"BROADSHEET_X": BROKEN}, "BROADSHEET_") == "environment variable BROADSHEET_X"
    assert not_utf8([], {"LESSOPEN": BROKEN}, "BROADSHEET_") is None
