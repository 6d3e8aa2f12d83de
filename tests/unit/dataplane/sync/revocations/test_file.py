"""The file of revoked keys survives unclean stops and full disks, and notices damage."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.snapshot.revocations.revoked_keys import NOTHING_REVOKED, Addition, RevocationsPosition
from dataplane.sync.disk.file_disk import FileDisk
from dataplane.sync.reserve import Reserve
from dataplane.sync.revocations import file as revocations_file
from dataplane.sync.revocations.file import RevocationsFile, StoredRevocations
from tests.cut_disk import Cut, CutDisk, Stop
from tests.disk import raise_disk_full


def call(write: Callable[[], None]) -> None:
    write()


def opened(path: Path) -> RevocationsFile:
    file = RevocationsFile(FileDisk(path.parent), path.name, with_room=call)
    file.read()
    return file


def at(sequence: int) -> RevocationsPosition:
    return RevocationsPosition(store_uid="store", sequence=sequence)


def one(sequence: int) -> Addition:
    return Addition(key_uids=(f"{sequence:032x}",), position=at(sequence))


def filled(path: Path, count: int) -> RevocationsFile:
    """A file to which `count` revocations were appended one by one, after the first."""
    file = opened(path)
    file.write(one(1).key_uids, at(1))
    for sequence in range(2, count + 1):
        assert file.has_place_for(one(sequence), sequence)
        file.append(one(sequence))
    return file


def stored(count: int) -> StoredRevocations:
    return StoredRevocations(key_uids=tuple(f"{sequence:032x}" for sequence in range(1, count + 1)), position=at(count))


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "REVOCATIONS"
    filled(path, 5)
    file = RevocationsFile(FileDisk(path.parent), path.name, with_room=call)
    assert file.read() == stored(5)
    file.append(one(6))
    assert RevocationsFile(FileDisk(path.parent), path.name, with_room=call).read() == stored(6)
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_a_file_nothing_is_revoked_and_the_first_is_written_whole(tmp_path: Path) -> None:
    file = opened(tmp_path / "REVOCATIONS")
    assert file.read() == StoredRevocations()
    assert not file.has_place_for(one(1), 1)


def test_a_change_of_position_alone_is_kept(tmp_path: Path) -> None:
    """A restored store may have revoked what is known already."""
    path = tmp_path / "REVOCATIONS"
    restored = RevocationsPosition(store_uid="restored", sequence=2)
    filled(path, 3).append(Addition(key_uids=(), position=restored))
    assert opened(path).read() == StoredRevocations(key_uids=stored(3).key_uids, position=restored)


def test_an_append_costs_what_it_adds(tmp_path: Path) -> None:
    path = tmp_path / "REVOCATIONS"
    file = opened(path)
    file.write([f"{number:032x}" for number in range(100_000)], at(100_000))
    before = path.stat().st_size
    assert before < 100_000 * 35
    file.append(one(100_001))
    assert path.stat().st_size - before < 120
    assert len(opened(path).read().key_uids) == 100_001


def test_a_file_of_many_appends_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations_file, "SPARE_BYTES", 1000)
    path = tmp_path / "REVOCATIONS"
    file, held, rewritten, position = opened(path), list[str](), 0, NOTHING_REVOKED
    for sequence in range(1, 301):
        position = RevocationsPosition(store_uid="s" * 32, sequence=sequence)
        addition = Addition(key_uids=one(sequence).key_uids, position=position)
        held += addition.key_uids
        if file.has_place_for(addition, len(held)):
            file.append(addition)
        else:
            file.write(held, position)
            rewritten += 1
        assert path.stat().st_size <= 2 * 34 * len(held) + 1000 + 100
    assert 2 <= rewritten <= 6
    assert opened(path).read() == StoredRevocations(key_uids=tuple(held), position=position)


@pytest.mark.parametrize("stop", list(Stop))
def test_what_was_kept_is_there_after_an_unclean_stop_at_each_step(tmp_path: Path, stop: Stop) -> None:
    for number in range(1000):
        folder, image = tmp_path / f"{number}", tmp_path / f"{number}-after"
        folder.mkdir()
        file, kept = filled(folder / "REVOCATIONS", 3), 3
        disk = CutDisk(folder, cut_before=number)
        try:
            with disk.watching(image, stop):
                for sequence in (4, 5):
                    file.append(one(sequence))
                    kept = sequence
                file.write(stored(5).key_uids + one(6).key_uids, at(6))
                kept = 6
        except Cut:
            found = RevocationsFile(FileDisk(image), "REVOCATIONS", with_room=call).read()
            assert found.key_uids in (stored(kept).key_uids, stored(kept + 1).key_uids), f"before step {number}"
            # A torn record cannot be told from a damaged one: then all are asked for again.
            assert stop is Stop.TORN or not found.damage, f"before step {number}"
            assert found.damage or found.position.sequence == len(found.key_uids)
        else:
            assert number > 6, "every step was cut"
            return
    raise AssertionError("the work never ends")


def test_a_record_that_is_cut_off_is_dropped_and_the_next_append_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "REVOCATIONS"
    filled(path, 4)
    whole = path.read_bytes()
    ends = len(whole)
    filled(path, 3)
    begins = path.stat().st_size
    for length in range(begins + 1, ends):
        path.write_bytes(whole[:length])
        file = RevocationsFile(FileDisk(path.parent), path.name, with_room=call)
        assert file.read() == stored(3)
        file.append(one(4))
        assert opened(path).read() == stored(4)


@given(offset=st.integers(0, 10_000), flip=st.integers(1, 255))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_loses_one_record_and_is_an_alarm_unless_it_looks_cut_off(
    tmp_path: Path, offset: int, flip: int
) -> None:
    path, whole = tmp_path / "REVOCATIONS", tmp_path / "whole"
    if not whole.exists():
        filled(whole, 6)
    content = bytearray(whole.read_bytes())
    content[offset % len(content)] ^= flip
    path.write_bytes(content)
    found = opened(path).read()
    if found.damage:
        assert found.position == NOTHING_REVOKED
        assert not found.key_uids or len(set(stored(6).key_uids).difference(found.key_uids)) == 1
        assert set(found.key_uids) <= set(stored(6).key_uids)
    else:
        assert found == stored(5), "the last one, which is asked for again"


def test_the_undamaged_rest_of_a_file_stays_revoked(tmp_path: Path) -> None:
    path = tmp_path / "REVOCATIONS"
    filled(path, 6)
    content = bytearray(path.read_bytes())
    third = content.index(b"%032x" % 3)
    content[third] ^= 1
    path.write_bytes(content)
    found = opened(path).read()
    assert "were altered" in found.damage
    assert found.position == NOTHING_REVOKED, "everything is asked for again"
    assert found.key_uids == tuple(f"{number:032x}" for number in (1, 2, 4, 5, 6))


def test_a_file_of_something_else_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "REVOCATIONS"
    path.write_bytes(b"something else")
    assert "does not begin" in opened(path).read().damage


def test_a_file_that_was_cut_among_its_first_records_does_not_claim_them(tmp_path: Path) -> None:
    """It was written whole, and then lost its end with a broken disk."""
    path = tmp_path / "REVOCATIONS"
    opened(path).write([f"{number:032x}" for number in range(25_000)], at(25_000))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = opened(path).read()
    assert (len(found.key_uids), found.position) == (10_000, NOTHING_REVOKED)


def test_a_full_disk_takes_the_reserved_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = Reserve(FileDisk(tmp_path), "RESERVE")
    reserve.keep(1)
    path, flush = tmp_path / "REVOCATIONS", os.fdatasync
    filled(path, 3)

    def full(descriptor: int) -> None:
        if (tmp_path / "RESERVE").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fdatasync", full)
    file = RevocationsFile(FileDisk(path.parent), path.name, with_room=reserve.with_room)
    file.read()
    file.append(one(4))
    assert opened(path).read() == stored(4)


def test_what_cannot_be_appended_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "REVOCATIONS"
    file = filled(path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", raise_disk_full)
        with pytest.raises(OSError, match="No space"):
            file.append(one(4))
    assert opened(path).read() == stored(3)
    assert not file.has_place_for(one(4), 4), "the next time, all is written"
    file.write(stored(4).key_uids, at(4))
    assert opened(path).read() == stored(4)
