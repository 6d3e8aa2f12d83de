"""Limits on a snapshot while its chunks arrive."""

from __future__ import annotations

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.assembler import Assembler, refuse_entry_count
from dataplane.snapshot.change import Change, changed
from dataplane.snapshot.policy import Limits
from dataplane.snapshot.rejection import (
    BLOB_TOO_LARGE,
    ENTRIES_NOT_ORDERED,
    ENTRY_COUNT_MISMATCH,
    SNAPSHOT_TOO_LARGE,
    Rejection,
)
from tests.raw import CATALOG, adapter, entry_proto, model, position, raws


def test_limits_hold_while_a_snapshot_arrives() -> None:
    at = position(CATALOG)
    chunk = pb.Chunk(entries=[entry_proto(entry) for entry in CATALOG])
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
    rejection = refuse_entry_count(count, Limits(entries_max=5))
    assert rejection is not None
    assert rejection.reason == SNAPSHOT_TOO_LARGE


def test_a_number_of_entries_other_than_announced_is_refused() -> None:
    chunk = pb.Chunk(entries=[entry_proto(entry) for entry in CATALOG])
    too_many = Assembler(position(CATALOG), 4, Limits()).add(chunk)
    assert too_many is not None
    assert too_many.reason == ENTRY_COUNT_MISMATCH
    assembler = Assembler(position(CATALOG), 6, Limits())
    assert assembler.add(chunk) is None
    too_few = assembler.complete()
    assert isinstance(too_few, Rejection)
    assert too_few.reason == ENTRY_COUNT_MISMATCH


BASE = position(CATALOG)


def of_change(**limits: int) -> Assembler:
    return Assembler(position(CATALOG, 2), len(CATALOG), Limits(**limits), base=BASE)


def test_a_change_is_collected_over_chunks() -> None:
    assembler = of_change()
    for chunk in (
        pb.Chunk(entries=[entry_proto(CATALOG[0])], removed=["b", "c"]),
        pb.Chunk(entries=[entry_proto(CATALOG[2])], removed=["d"]),
    ):
        assert assembler.add(chunk) is None
    assert assembler.complete() == Change(
        base=BASE, entries=(CATALOG[0], CATALOG[2]), removed=frozenset({"b", "c", "d"})
    )


@pytest.mark.parametrize(
    ("limits", "removed", "reason"),
    [
        ({}, ["b", "b"], ENTRIES_NOT_ORDERED),
        ({}, ["b", "a"], ENTRIES_NOT_ORDERED),
        ({"entries_max": 2}, ["a", "b", "c"], ENTRY_COUNT_MISMATCH),
        ({"total_bytes_max": 5}, ["aaa", "bbb"], SNAPSHOT_TOO_LARGE),
    ],
)
def test_removals_are_ordered_and_within_limits(limits: dict[str, int], removed: list[str], reason: str) -> None:
    rejection = of_change(**limits).add(pb.Chunk(removed=removed))
    assert rejection is not None
    assert rejection.reason == reason


def test_a_whole_snapshot_has_no_removals() -> None:
    rejection = Assembler(BASE, len(CATALOG), Limits()).add(pb.Chunk(removed=["a"]))
    assert rejection is not None
    assert rejection.reason == ENTRY_COUNT_MISMATCH


def test_a_change_replaces_adds_and_removes() -> None:
    later = raws(model("a", number=2), adapter("a", "y"), model("b"), model("c"))
    before = {entry.name: entry for entry in CATALOG}
    after = {entry.name: entry for entry in later}
    change = Change(
        base=BASE,
        entries=tuple(entry for entry in later if before.get(entry.name) != entry),
        removed=frozenset(before.keys() - after.keys()),
    )
    assert len(change.entries) == 2
    assert changed(CATALOG, change) == later
