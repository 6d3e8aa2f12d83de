"""What holds of a log that was damaged, or was not written to its end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dataplane.snapshot.snapshot import Position
from dataplane.sync.stored.log_format import (
    Kind,
    LoggedChange,
    Record,
    base_record,
    begin_log,
    change_record,
    encode,
    proven_record,
    recover,
)
from tests.disk import ONE, THREE, TWO, change, snapshot

FOUR = snapshot(4)
CHANGES = tuple(
    LoggedChange(to=after.position, entry_count=2, change=change(before, after), signed_head=b"head" * number)
    for number, (before, after) in enumerate([(ONE, TWO), (TWO, THREE), (THREE, FOUR)])
)
RECORDS = (
    base_record(ONE.position),
    change_record(CHANGES[0]),
    proven_record(TWO.position),
    change_record(CHANGES[1]),
    change_record(CHANGES[2]),
)


def log_of(*records: Record) -> bytes:
    content, end = begin_log()
    for record in records:
        encoded, end = encode(record, end)
        content += encoded
    return content


LOG = log_of(*RECORDS)
ENDS = [len(log_of(*RECORDS[:count])) for count in range(len(RECORDS) + 1)]
"""Where each record ends, after where the magic line ends."""


def test_what_was_written_comes_back() -> None:
    recovered = recover(LOG, ONE.position)
    assert (recovered.fault, recovered.torn) == ("", False)
    assert [point.position for point in recovered.points] == [each.position for each in (ONE, TWO, THREE, FOUR)]
    assert [point.proven for point in recovered.points] == [False, True, False, False]
    assert tuple(point.logged for point in recovered.points[1:]) == CHANGES
    assert [point.end.offset for point in recovered.points] == [ENDS[1], ENDS[3], ENDS[4], ENDS[5]]


def test_a_log_that_ends_at_any_byte_has_the_whole_records_and_is_torn_between_them() -> None:
    for size in range(len(LOG)):
        recovered = recover(LOG[:size], ONE.position)
        whole = sum(end <= size for end in ENDS[1:])
        assert [point.position for point in recovered.points] == points_of(whole), size
        assert recovered.torn is (size not in ENDS[1:]), size
        assert bool(recovered.fault) is recovered.torn, size


def points_of(records: int) -> list[Position]:
    """The positions that the first records lead to."""
    return [each.position for each in (ONE, TWO, THREE, FOUR)][: records if records < 3 else records - 1]


def test_a_flipped_bit_ends_the_log_before_its_record_and_is_not_taken_for_a_torn_one() -> None:
    for at in range(len(LOG)):
        for bit in range(8):
            damaged = bytearray(LOG)
            damaged[at] ^= 1 << bit
            recovered = recover(bytes(damaged), ONE.position)
            whole = sum(end <= at for end in ENDS[1:])
            assert [point.position for point in recovered.points] == points_of(whole), (at, bit)
            assert recovered.fault, (at, bit)
            assert not recovered.torn, (at, bit)


def test_zeros_after_the_last_record_are_a_torn_one() -> None:
    """A file system may have made the file longer before it lost its power."""
    recovered = recover(LOG + bytes(5000), ONE.position)
    assert (len(recovered.points), recovered.torn) == (4, True)
    assert "head" in recovered.fault


@pytest.mark.parametrize("how", ["leave out", "repeat", "swap"])
def test_records_that_are_moved_do_not_hold(how: str) -> None:
    """Each of them is intact."""
    pieces = [LOG[begin:end] for begin, end in zip([0, *ENDS[1:]], ENDS[1:], strict=False)]
    moved = {
        "leave out": [*pieces[:3], pieces[4]],
        "repeat": [*pieces, pieces[4]],
        "swap": [*pieces[:3], pieces[4], pieces[3]],
    }[how]
    recovered = recover(b"".join(moved), ONE.position)
    assert recovered.points[-1].position == (FOUR if how == "repeat" else TWO).position
    assert "was altered" in recovered.fault


def test_a_record_of_a_later_release_ends_the_log() -> None:
    content, end = begin_log()
    for record in RECORDS[:2]:
        encoded, end = encode(record, end)
        content += encoded
    later = encode(Record(kind=9, payload=b"news"), end)[0]  # type: ignore[arg-type]  # no kind of this release
    recovered = recover(content + later, ONE.position)
    assert recovered.points[-1].position == TWO.position
    assert "is of kind 9, which this release does not know" in recovered.fault


@pytest.mark.parametrize(
    ("records", "fault"),
    [
        ([base_record(TWO.position)], "it follows store-a@2"),
        ([RECORDS[1]], "CHANGE is record 0"),
        ([RECORDS[0], RECORDS[0]], "BASE is record 1"),
        ([RECORDS[0], RECORDS[3]], "a change of store-a@2"),
        ([RECORDS[0], proven_record(TWO.position)], "store-a@2"),
        ([RECORDS[0], Record(kind=Kind.CHANGE, payload=b"\0\0")], "a change cannot be read"),
        ([RECORDS[0], Record(kind=Kind.CHANGE, payload=b"\0\0\0\1\xff\0\0\0\0")], "a change cannot be read"),
        ([RECORDS[0], Record(kind=Kind.PROVEN, payload=b"\xff")], "a position cannot be read"),
        ([Record(kind=Kind.BASE, payload=b"")], "is incomplete"),
        ([RECORDS[0], change_record(replace(CHANGES[0], to=ONE.position))], "leads from store-a@1"),
        ([RECORDS[0], change_record(replace(CHANGES[0], to=snapshot(2, store_uid="b").position))], "to b@2"),
    ],
)
def test_records_that_do_not_follow_each_other_do_not_hold(records: list[Record], fault: str) -> None:
    """Their checksums are right."""
    recovered = recover(log_of(*records), ONE.position)
    assert len(recovered.points) == (1 if records[0] is RECORDS[0] else 0)
    assert fault in recovered.fault
    assert not recovered.torn
