"""A data plane that is killed, or loses its power, at each step of what it does on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplane.sync.events import Rejected
from tests.cut_disk import CutDisk, Stop, cut_everywhere
from tests.disk import ONE, THREE, TWO, Machine, booted_revision, change

STOP = pytest.mark.parametrize("stop", [Stop.KILLED, Stop.POWER_CUT])


def proven_one(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()


def save_two_and_three(machine: Machine, acknowledged: list[int]) -> None:
    for snapshot in (TWO, THREE):
        machine.disk.save(snapshot)
        acknowledged.append(snapshot.position.revision)
        machine.live_through_probation()


@STOP
def test_acknowledged_snapshot_is_booted_after_an_unclean_stop_at_each_step(tmp_path: Path, stop: Stop) -> None:
    """A key that revision 2 or 3 revokes stays revoked from the moment when it is acknowledged."""
    cuts = cut_everywhere(tmp_path, proven_one, save_two_and_three, stop)
    assert len(cuts) > 20
    for where, acknowledged, machine in cuts:
        newest = max(acknowledged, default=1)
        booted = booted_revision(machine.start())
        assert booted in (newest, newest + 1), where
        machine.disk.close()
        assert booted_revision(machine.start()) == booted, f"{where}: the next start is the same"
        machine.disk.save(THREE)
        machine.disk.close()
        assert booted_revision(machine.start()) == 3, f"{where}: the directory can still be used"
        machine.disk.close()


@STOP
def test_snapshot_is_booted_after_an_unclean_stop_at_each_step_of_a_start(tmp_path: Path, stop: Stop) -> None:
    def unproven_two(machine: Machine) -> None:
        proven_one(machine)
        machine.disk.save(TWO)
        machine.disk.close()

    def start_and_stop(machine: Machine, _: list[int]) -> None:
        machine.start()
        machine.disk.close()

    for where, _, machine in cut_everywhere(tmp_path, unproven_two, start_and_stop, stop):
        assert booted_revision(machine.start()) == 2, where
        machine.disk.close()
        assert booted_revision(machine.start()) == 2, f"{where}: also the next time"
        machine.disk.close()


@pytest.mark.parametrize("as_change", [False, True])
def test_a_start_with_a_proven_snapshot_writes_nothing(machine: Machine, as_change: bool) -> None:
    proven_one(machine)
    machine.disk.save(TWO, change(ONE, TWO) if as_change else None)
    machine.live_through_probation()
    machine.kill()
    disk = CutDisk(machine.directory)
    with disk.watching(machine.directory, Stop.KILLED):
        assert booted_revision(machine.start()) == 2
        machine.disk.close()
    assert disk.steps == []


@STOP
def test_rejection_is_remembered_whole_or_not_at_all(tmp_path: Path, stop: Stop) -> None:
    def reject(machine: Machine, acknowledged: list[int]) -> None:
        for snapshot in (TWO, THREE):
            machine.disk.reject(Rejected(position=snapshot.position, reason="BAD", message="words"))
            acknowledged.append(snapshot.position.revision)

    for where, acknowledged, machine in cut_everywhere(tmp_path, proven_one, reject, stop):
        boot = machine.start()
        rejected = [item.position.revision for item in boot.rejected]
        assert rejected[: len(acknowledged)] == acknowledged, where
        assert booted_revision(boot) == 1, where
        machine.disk.close()


@STOP
def test_return_to_the_previous_snapshot_survives_an_unclean_stop_at_each_step(tmp_path: Path, stop: Stop) -> None:
    """The crashing snapshot is rejected by the start that goes back, or by the one after it."""

    def crashing_two(machine: Machine) -> None:
        proven_one(machine)
        machine.disk.save(TWO)
        machine.kill()
        machine.start()
        machine.kill()

    def start(machine: Machine, acknowledged: list[int]) -> None:
        assert booted_revision(machine.start()) == 1
        acknowledged.append(1)

    for where, _, machine in cut_everywhere(tmp_path, crashing_two, start, stop):
        boot = machine.start()
        assert booted_revision(boot) == 1, where
        assert [item.position for item in boot.rejected] == [TWO.position], where
        machine.disk.close()
