"""A data plane that is killed, or loses its power, at each step of what it does on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.sync.events import Rejected
from tests.cut_disk import Cut, CutDisk
from tests.disk import ONE, THREE, TWO, Machine, booted_revision

POWER_CUT = pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power-cut"])


def cut_everywhere(
    folder: Path, prepare: Callable[[Machine], object], work: Callable[[Machine, list[int]], object], *, power_cut: bool
) -> list[tuple[str, list[int], Machine]]:
    """Do `work` again and again, each time cut before the next step.

    Returns:
        For each step: what it is, the revisions that `work` had acknowledged, the machine after.
    """
    left = []
    for number in range(1000):
        machine = Machine(folder / f"{number}-before")
        machine.start()
        prepare(machine)
        disk = CutDisk(machine.directory, cut_before=number)
        image, acknowledged = folder / f"{number}-after", list[int]()
        try:
            with disk.watching(image, power_cut=power_cut):
                work(machine, acknowledged)
        except Cut:
            machine.kill()
            left.append((f"before step {number}, after {disk.steps[-1:]}", acknowledged, Machine(image)))
        else:
            machine.kill()
            assert number > 0, "no step was seen"
            return left
    raise AssertionError("the work never ends")


def proven_one(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()


def save_two_and_three(machine: Machine, acknowledged: list[int]) -> None:
    for snapshot in (TWO, THREE):
        machine.disk.save(snapshot)
        acknowledged.append(snapshot.position.revision)
        machine.live_through_probation()


@POWER_CUT
def test_acknowledged_snapshot_is_booted_after_an_unclean_stop_at_each_step(tmp_path: Path, power_cut: bool) -> None:
    """A key that revision 2 or 3 revokes stays revoked from the moment when it is acknowledged."""
    cuts = cut_everywhere(tmp_path, proven_one, save_two_and_three, power_cut=power_cut)
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


@POWER_CUT
def test_proven_snapshot_is_booted_after_an_unclean_stop_at_each_step_of_a_start(
    tmp_path: Path, power_cut: bool
) -> None:
    def proven_two(machine: Machine) -> None:
        proven_one(machine)
        machine.disk.save(TWO)
        machine.live_through_probation()
        machine.kill()

    def start_and_stop(machine: Machine, _: list[int]) -> None:
        machine.start()
        machine.disk.close()

    for where, _, machine in cut_everywhere(tmp_path, proven_two, start_and_stop, power_cut=power_cut):
        assert booted_revision(machine.start()) == 2, where
        machine.kill()
        assert booted_revision(machine.start()) == 2, f"{where}: also the next time"
        machine.disk.close()


@POWER_CUT
def test_rejection_is_remembered_whole_or_not_at_all(tmp_path: Path, power_cut: bool) -> None:
    def reject(machine: Machine, acknowledged: list[int]) -> None:
        for snapshot in (TWO, THREE):
            machine.disk.reject(Rejected(position=snapshot.position, reason="BAD", message="words"))
            acknowledged.append(snapshot.position.revision)

    for where, acknowledged, machine in cut_everywhere(tmp_path, proven_one, reject, power_cut=power_cut):
        boot = machine.start()
        rejected = [item.position.revision for item in boot.rejected]
        assert rejected[: len(acknowledged)] == acknowledged, where
        assert booted_revision(boot) == 1, where
        machine.disk.close()


@POWER_CUT
def test_return_to_the_previous_snapshot_survives_an_unclean_stop_at_each_step(tmp_path: Path, power_cut: bool) -> None:
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

    for where, _, machine in cut_everywhere(tmp_path, crashing_two, start, power_cut=power_cut):
        boot = machine.start()
        assert booted_revision(boot) == 1, where
        assert [item.position for item in boot.rejected] == [TWO.position], where
        machine.disk.close()
