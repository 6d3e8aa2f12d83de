"""Limits on a snapshot while its chunks arrive."""

from __future__ import annotations

import pytest

from dataplane.snapshot.assembler import Assembler
from dataplane.snapshot.policy import Limits
from dataplane.snapshot.rejection import BLOB_TOO_LARGE, ENTRY_COUNT_MISMATCH, SNAPSHOT_TOO_LARGE, Rejection
from tests.raw import CATALOG, entry_proto, position


def test_limits_hold_while_a_snapshot_arrives() -> None:
    at = position(CATALOG)
    chunk = [entry_proto(entry) for entry in CATALOG]
    size = sum(len(entry.name) + len(entry.type) + len(entry.blob) for entry in CATALOG)
    assert Assembler(at, 5, Limits(total_bytes_max=size)).add(chunk) is None
    for limits, reason in (
        (Limits(total_bytes_max=size - 1), SNAPSHOT_TOO_LARGE),
        (Limits(blob_bytes_max=20), BLOB_TOO_LARGE),
    ):
        rejection = Assembler(at, 5, limits).add(chunk)
        assert rejection is not None
        assert rejection.reason == reason


@pytest.mark.parametrize("count", [-1, 6])
def test_an_announcement_beyond_the_limit_is_refused(count: int) -> None:
    rejection = Assembler(position(CATALOG), count, Limits(entries_max=5)).refuse_announcement()
    assert rejection is not None
    assert rejection.reason == SNAPSHOT_TOO_LARGE


def test_a_number_of_entries_other_than_announced_is_refused() -> None:
    chunk = [entry_proto(entry) for entry in CATALOG]
    too_many = Assembler(position(CATALOG), 4, Limits()).add(chunk)
    assert too_many is not None
    assert too_many.reason == ENTRY_COUNT_MISMATCH
    assembler = Assembler(position(CATALOG), 6, Limits())
    assert assembler.add(chunk) is None
    too_few = assembler.complete()
    assert isinstance(too_few, Rejection)
    assert too_few.reason == ENTRY_COUNT_MISMATCH
