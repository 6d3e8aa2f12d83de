"""Changes are appended to the log of the newest whole snapshot."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.snapshot.change import Change
from dataplane.sync.directory import CRASHED_REPEATEDLY, DiskError
from dataplane.sync.probation import PROBATION_S
from dataplane.sync.stored import limits
from tests.cut_disk import CutDisk, Stop
from tests.disk import ONE, THREE, TWO, Machine, booted_revision, change, raise_disk_full, snapshot

FOUR, FIVE = snapshot(4), snapshot(5)


def test_a_change_is_one_write_and_one_flush(machine: Machine) -> None:
    machine.save(ONE, TWO)
    log = f"snapshots/{machine.log_file().name}"
    disk = CutDisk(machine.directory)
    with disk.watching(machine.directory, Stop.KILLED):
        machine.disk.save(THREE, change(TWO, THREE))
    assert disk.steps == [f"open {log}", f"pwrite {log}", f"the other half of pwrite {log}", f"fdatasync {log}"]


def test_changes_are_booted_after_a_restart(machine: Machine) -> None:
    machine.save(ONE, TWO, THREE)
    machine.kill()
    booted = machine.start().snapshot
    assert booted is not None
    assert (booted.position, booted.entries, booted.served) == (THREE.position, THREE.entries, THREE.served)
    assert len(machine.snapshot_files()) == 1


def test_removed_entries_are_gone_after_a_restart(machine: Machine) -> None:
    empty = snapshot(2, entries=())
    machine.save(ONE, empty, snapshot(3, entries=ONE.entries))
    machine.kill()
    machine.start()
    machine.disk.save(snapshot(4, entries=()), change(snapshot(3, entries=ONE.entries), snapshot(4, entries=())))
    machine.kill()
    booted = machine.start().snapshot
    assert booted is not None
    assert booted.entries == ()


def test_a_signed_head_comes_back_with_its_snapshot(machine: Machine) -> None:
    heads = [bytes([10, 1, number]) for number in range(3)]  # each a SignedHead with one byte of payload
    signed = [replace(each, signed_head=head) for each, head in zip((ONE, TWO, THREE), heads, strict=True)]
    for number, each in enumerate(signed):
        machine.disk.save(each, change(signed[number - 1], each) if number else None)
        machine.kill()
        booted = machine.start().snapshot
        assert booted is not None
        assert booted.signed_head == heads[number]


@pytest.mark.parametrize("how", ["no change", "another base", "unknown newest"])
def test_what_does_not_follow_the_newest_on_disk_is_written_whole(machine: Machine, how: str) -> None:
    machine.save(ONE, TWO)
    if how == "unknown newest":
        machine.kill()
        machine.pointed_to("CURRENT").unlink()
        machine.start()
    base = {"no change": None, "another base": change(ONE, FOUR), "unknown newest": change(TWO, FOUR)}[how]
    machine.disk.save(FOUR, base)
    assert machine.pointed_to("CURRENT").name.startswith("00000000000000000004")
    assert not machine.log_file().exists()
    machine.disk.save(FIVE, change(FOUR, FIVE))
    machine.kill()
    assert booted_revision(machine.start()) == 5


def test_a_change_that_is_larger_than_a_log_may_be_is_written_whole(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.save(ONE)
    monkeypatch.setattr(limits, "COMPACT_BYTES_MIN", 1)
    monkeypatch.setattr(limits, "COMPACT_BYTES_MAX", 100)
    machine.disk.save(TWO, change(ONE, TWO))
    assert machine.pointed_to("CURRENT").name.startswith("00000000000000000002")


def test_a_full_disk_leaves_the_log_as_it_was(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.save(ONE, TWO)
    before = machine.log_file().read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", raise_disk_full)
        with pytest.raises(DiskError, match="No space left"):
            machine.disk.save(THREE, change(TWO, THREE))
    assert machine.log_file().read_bytes() == before
    machine.disk.save(FOUR, change(THREE, FOUR))
    machine.kill()
    assert booted_revision(machine.start()) == 4


def test_half_a_record_that_could_not_be_taken_back_is_cut_before_the_next(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.save(ONE, TWO)
    with monkeypatch.context() as patch:
        for call in ("fdatasync", "ftruncate"):
            patch.setattr(os, call, raise_disk_full)
        with pytest.raises(DiskError, match="No space left"):
            machine.disk.save(THREE, change(TWO, THREE))
    machine.disk.save(FOUR, change(TWO, FOUR))
    machine.kill()
    boot = machine.start()
    assert (booted_revision(boot), boot.unreadable) == (4, ())


def test_a_change_takes_a_little_of_the_reserved_room(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.save(ONE, TWO)
    reserve, flush = machine.directory / "RESERVE", os.fdatasync
    before = reserve.stat().st_size

    def flush_if_room(descriptor: int) -> None:
        if reserve.stat().st_size == before:
            raise_disk_full()
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", flush_if_room)
        patch.setattr(os, "posix_fallocate", raise_disk_full)
        machine.disk.save(THREE, change(TWO, THREE))
    assert before - 100_000 < reserve.stat().st_size < before
    machine.kill()
    assert booted_revision(machine.start()) == 3


# -- probation -------------------------------------------------------------------------------------


def test_after_two_crashes_the_proven_point_before_is_booted_and_the_log_cut(machine: Machine) -> None:
    machine.save(ONE, TWO)
    machine.live_through_probation()
    machine.disk.save(THREE, change(TWO, THREE))
    machine.disk.save(FOUR, change(THREE, FOUR))
    machine.kill()
    assert booted_revision(machine.start()) == 4
    machine.kill()
    boot = machine.start()
    assert booted_revision(boot) == 2, "3 is not proven"
    (rejected,) = boot.rejected
    assert (rejected.position, rejected.reason) == (FOUR.position, CRASHED_REPEATEDLY)
    assert [path.suffix for path in (machine.directory / "aside").iterdir()] != [], "the rest is kept aside"
    machine.kill()
    again = machine.start()
    assert (booted_revision(again), again.rejected) == (2, boot.rejected)
    machine.disk.save(FIVE, change(TWO, FIVE))
    machine.kill()
    assert booted_revision(machine.start()) == 5


def test_without_a_proven_point_two_crashes_lead_to_previous(machine: Machine) -> None:
    machine.save(ONE)
    machine.live_through_probation()
    machine.save(TWO, THREE)
    boot = machine.crash(2)
    assert booted_revision(boot) == 1
    assert [item.position for item in boot.rejected] == [THREE.position]


def test_previous_is_booted_at_its_proven_point(machine: Machine) -> None:
    machine.save(ONE, TWO)
    machine.live_through_probation()
    machine.disk.save(THREE, change(TWO, THREE))
    machine.disk.save(FOUR)
    boot = machine.crash(2)
    assert booted_revision(boot) == 2
    machine.kill()
    assert booted_revision(machine.start()) == 2, "what followed it in its log is gone"


def test_the_first_snapshot_is_booted_when_nothing_else_is_proven(machine: Machine) -> None:
    machine.save(ONE, TWO, THREE)
    boot = machine.crash(2)
    assert booted_revision(boot) == 1


def test_a_proven_change_is_booted_after_any_number_of_crashes(machine: Machine) -> None:
    machine.save(ONE, TWO)
    machine.live_through_probation()
    for _ in range(4):
        boot = machine.crash(1)
        assert (booted_revision(boot), boot.rejected) == (2, ())


def test_a_probation_that_is_over_is_noted_before_the_next_change(machine: Machine) -> None:
    machine.save(ONE, TWO)
    machine.clock.now_s += PROBATION_S
    machine.disk.save(THREE, change(TWO, THREE))
    boot = machine.crash(2)
    assert booted_revision(boot) == 2


def test_orderly_stops_of_a_changed_snapshot_are_not_crashes(machine: Machine) -> None:
    machine.save(ONE, TWO)
    for _ in range(4):
        machine.disk.close()
        assert booted_revision(machine.start()) == 2
    machine.kill()
    assert booted_revision(machine.start()) == 2
    machine.kill()
    assert booted_revision(machine.start()) == 1


# -- damage ----------------------------------------------------------------------------------------


def test_the_records_before_a_damaged_one_hold_and_the_rest_is_kept_aside(machine: Machine) -> None:
    machine.save(ONE, TWO)
    sound = machine.log_file().stat().st_size
    machine.disk.save(THREE, change(TWO, THREE))
    machine.disk.save(FOUR, change(THREE, FOUR))
    machine.kill()
    damage(machine.log_file(), at=sound + 20)
    boot = machine.start()
    assert booted_revision(boot) == 2
    assert [(item.file, item.reason) for item in boot.unreadable] == [(machine.log_file().name, "CORRUPT_ON_DISK")]
    assert machine.log_file().stat().st_size == sound
    (aside,) = (machine.directory / "aside").iterdir()
    assert aside.name == f"{machine.log_file().name}.{sound}"
    machine.disk.save(FIVE, change(TWO, FIVE))
    machine.kill()
    again = machine.start()
    assert (booted_revision(again), again.unreadable) == (5, ())


def test_a_point_that_fails_its_check_is_not_booted(machine: Machine) -> None:
    """The record is intact, but does not lead to the root digest that it names."""
    machine.save(ONE, TWO)
    machine.live_through_probation()
    machine.disk.save(THREE, Change(base=TWO.position, entries=(), removed=frozenset()))
    machine.kill()
    boot = machine.start()
    assert booted_revision(boot) == 2
    assert "ROOT_DIGEST_MISMATCH" in boot.unreadable[0].message
    machine.disk.save(FOUR, change(TWO, FOUR))
    machine.kill()
    assert booted_revision(machine.start()) == 4


def test_with_a_damaged_base_previous_is_booted_with_all_its_changes(machine: Machine) -> None:
    machine.save(ONE, TWO)
    machine.live_through_probation()
    machine.disk.save(THREE, change(TWO, THREE))
    machine.save(FOUR, FIVE)
    machine.kill()
    damage(machine.pointed_to("CURRENT"), at=30)
    names = {machine.pointed_to("CURRENT").name, machine.log_file().name}
    assert booted_revision(machine.start()) == 3
    assert {path.name for path in (machine.directory / "aside").iterdir()} == names


def test_a_log_of_another_snapshot_is_not_taken_for_changes(machine: Machine) -> None:
    machine.save(ONE, TWO)
    strange = machine.log_file().read_bytes()
    machine.disk.save(THREE)
    machine.kill()
    machine.log_file().write_bytes(strange)
    boot = machine.start()
    assert booted_revision(boot) == 3
    assert "it follows store-a@1" in boot.unreadable[0].message


def damage(path: Path, *, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


# -- other releases --------------------------------------------------------------------------------


def test_a_directory_of_the_release_before_is_taken_over(machine: Machine) -> None:
    """It has whole snapshots only, and no PROBATION once the newest is proven."""
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    machine.live_through_probation()
    machine.kill()
    assert not list(machine.directory.rglob("*.log"))
    assert not (machine.directory / "PROBATION").exists()
    machine.start()
    machine.disk.save(THREE, change(TWO, THREE))
    boot = machine.crash(2)
    assert booted_revision(boot) == 2, "it was proven"
    assert len(machine.snapshot_files()) == 2


def test_a_snapshot_file_that_is_written_again_has_no_changes_of_before(machine: Machine) -> None:
    """Of a store that is left and followed again, as an operator allows."""
    machine.save(ONE, TWO)
    machine.live_through_probation()
    machine.disk.save(snapshot(9, store_uid="store-b"))
    machine.disk.save(ONE)
    machine.kill()
    assert booted_revision(machine.start()) == 1
