"""Crashes soon after a snapshot went into service."""

from __future__ import annotations

import pytest

from dataplane.sync.directory import CRASHED_REPEATEDLY
from dataplane.sync.probation import PROBATION_S
from dataplane.sync.stored.booting import CRASHES_MAX
from tests.disk import ONE, THREE, TWO, Machine, become_read_only, booted_revision


def test_after_two_crashes_on_probation_previous_is_booted_and_the_crashing_one_rejected(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    machine.clock.now_s += PROBATION_S - 1
    machine.kill()
    assert booted_revision(machine.start()) == 2
    machine.kill()
    boot = machine.start()
    assert booted_revision(boot) == 1
    (rejected,) = boot.rejected
    assert (rejected.position, rejected.reason) == (TWO.position, CRASHED_REPEATEDLY)
    machine.kill()
    again = machine.start()
    assert booted_revision(again) == 1
    assert again.rejected == boot.rejected


def test_crashes_after_probation_do_not_count(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    for _ in range(5):
        machine.live_through_probation()
        machine.kill()
        assert booted_revision(machine.start()) == 2


def test_orderly_stops_are_not_crashes(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    for _ in range(5):
        machine.disk.close()
        assert booted_revision(machine.start()) == 2


def test_a_proven_snapshot_is_booted_after_any_number_of_crashes_soon_after_boot(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    machine.live_through_probation()
    for _ in range(CRASHES_MAX + 2):
        machine.kill()
        boot = machine.start()
        assert (booted_revision(boot), boot.rejected) == (2, ())


def test_an_orderly_stop_interrupts_the_probation_and_does_not_prove_the_snapshot(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    machine.kill()
    machine.start()
    machine.disk.close()
    assert booted_revision(machine.start()) == 2
    assert not machine.disk.settle()
    machine.kill()
    assert booted_revision(machine.start()) == 1


def test_a_snapshot_stays_proven_if_that_could_not_be_written_at_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    with monkeypatch.context() as patch:
        become_read_only(patch)
        machine.live_through_probation()
    machine.disk.settle()
    for _ in range(CRASHES_MAX):
        machine.kill()
        assert booted_revision(machine.start()) == 2


def test_on_a_read_only_disk_crashes_are_not_held_against_the_snapshot(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it has outlived its probation could not have been written either."""
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    machine.kill()
    machine.start()
    with monkeypatch.context() as patch:
        become_read_only(patch)
        machine.kill()
        assert booted_revision(machine.start_read_only()) == 2


def test_a_forgotten_rejection_is_not_found_after_a_restart(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    machine.kill()
    machine.start()
    machine.kill()
    (rejected,) = machine.start().rejected
    machine.disk.forget(rejected.position)
    machine.disk.save(TWO)
    machine.kill()
    boot = machine.start()
    assert (booted_revision(boot), boot.rejected) == (2, ())


def test_outliving_the_probation_resets_the_crash_count(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    for _ in range(3):
        machine.kill()
        assert booted_revision(machine.start()) == 2
        machine.live_through_probation()
        machine.kill()
        assert booted_revision(machine.start()) == 2
        machine.live_through_probation()


def test_without_a_previous_a_crashing_snapshot_is_booted_again(machine: Machine) -> None:
    machine.disk.save(ONE)
    for _ in range(4):
        machine.kill()
        assert booted_revision(machine.start()) == 1


def test_previous_keeps_naming_a_proven_snapshot(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    machine.disk.save(THREE)
    assert machine.pointed_to("PREVIOUS").name.startswith("00000000000000000001")
    assert len(machine.snapshot_files()) == 2


def test_a_proven_snapshot_stays_proven_after_a_restart(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    machine.live_through_probation()
    machine.kill()
    assert booted_revision(machine.start()) == 2
    machine.disk.save(THREE)
    assert machine.pointed_to("PREVIOUS").name.startswith("00000000000000000002")
