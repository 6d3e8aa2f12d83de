"""Damaged messages of the Sync stream crash nothing. `make fuzz-sync` sends more."""

from __future__ import annotations

from tests.sync_fuzz.__main__ import fuzz

COUNT = 600
"""In each direction. They take 2 s."""


def test_damaged_messages_crash_nothing_and_activate_nothing_invalid() -> None:
    fuzz(COUNT, 20261129)
