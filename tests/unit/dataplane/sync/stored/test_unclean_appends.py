"""A data plane that is killed, or loses its power, at each step of what it does to its log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.sync.stored import limits
from tests.cut_disk import Stop, cut_everywhere
from tests.disk import ONE, THREE, TWO, Machine, booted_revision, change, snapshot

pytestmark = pytest.mark.usefixtures("unflushed")

STOP = pytest.mark.parametrize("stop", list(Stop), ids=lambda stop: stop.value)

FOUR, FIVE = snapshot(4), snapshot(5)


def proven_one(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()


def usable(machine: Machine, acknowledged: list[int], where: str, *, at_first: int = 1) -> None:
    """Check that the acknowledged or the next revision is booted, and that more can be saved."""
    newest = max(acknowledged, default=at_first)
    boot = machine.start()
    booted = boot.snapshot
    assert booted is not None, where
    assert booted.position.revision in (newest, newest + 1), where
    assert booted.entries == snapshot(booted.position.revision).entries, where
    machine.disk.close()
    again = machine.start()
    assert booted_revision(again) == booted.position.revision, f"{where}: the next start is the same"
    assert again.unreadable == (), f"{where}: what is damaged was put aside"
    nine = snapshot(9)
    machine.disk.save(nine, change(booted, nine))
    machine.disk.close()
    assert booted_revision(machine.start()) == 9, f"{where}: the directory can still be used"
    machine.disk.close()


@STOP
def test_acknowledged_change_is_booted_after_an_unclean_stop_at_each_step(tmp_path: Path, stop: Stop) -> None:
    def save(machine: Machine, acknowledged: list[int]) -> None:
        for before, after in ((ONE, TWO), (TWO, THREE)):
            machine.disk.save(after, change(before, after))
            acknowledged.append(after.position.revision)
            machine.live_through_probation()

    cuts = cut_everywhere(tmp_path, proven_one, save, stop)
    assert len(cuts) > 12
    for where, acknowledged, machine in cuts:
        usable(machine, acknowledged, where)


@STOP
def test_a_compaction_loses_nothing_at_each_step(tmp_path: Path, stop: Stop, often: None) -> None:
    """With a change that arrives while the new base is written, and one after it."""

    def save(machine: Machine, acknowledged: list[int]) -> None:
        machine.waiting = []
        for before, after in ((ONE, TWO), (TWO, THREE), (THREE, FOUR)):
            machine.disk.save(after, change(before, after))
            acknowledged.append(after.position.revision)
        (compact,) = machine.waiting
        compact()
        machine.disk.save(FIVE, change(FOUR, FIVE))
        acknowledged.append(5)

    cuts = cut_everywhere(tmp_path, proven_one, save, stop)
    assert len(cuts) > 25
    for where, acknowledged, machine in cuts:
        usable(machine, acknowledged, where)


@STOP
def test_a_whole_snapshot_after_changes_is_kept_at_each_step(tmp_path: Path, stop: Stop) -> None:
    def proven_three(machine: Machine) -> None:
        machine.save(ONE, TWO, THREE)
        machine.live_through_probation()

    def save(machine: Machine, acknowledged: list[int]) -> None:
        machine.disk.save(FOUR)
        acknowledged.append(4)
        machine.live_through_probation()
        machine.disk.save(FIVE, change(FOUR, FIVE))
        acknowledged.append(5)

    for where, acknowledged, machine in cut_everywhere(tmp_path, proven_three, save, stop):
        usable(machine, acknowledged, where, at_first=3)


def crashing_in_the_log(machine: Machine) -> None:
    """Revision 2 is proven, 4 crashes the process for the second time; all in one log."""
    machine.save(ONE, TWO)
    machine.live_through_probation()
    machine.disk.save(THREE, change(TWO, THREE))
    machine.disk.save(FOUR, change(THREE, FOUR))
    machine.crash(1)
    machine.kill()


def crashing_in_another_file(machine: Machine) -> None:
    """Revision 2 is proven, in the log of PREVIOUS."""
    machine.save(ONE, TWO)
    machine.live_through_probation()
    machine.disk.save(THREE, change(TWO, THREE))
    machine.disk.save(FOUR)
    machine.crash(1)
    machine.kill()


@STOP
@pytest.mark.parametrize("crashing", [crashing_in_the_log, crashing_in_another_file])
def test_return_to_a_proven_point_survives_an_unclean_stop_at_each_step(
    tmp_path: Path, stop: Stop, crashing: Callable[[Machine], None]
) -> None:
    def start(machine: Machine, acknowledged: list[int]) -> None:
        assert booted_revision(machine.start()) == 2
        acknowledged.append(2)

    cuts = cut_everywhere(tmp_path, crashing, start, stop)
    assert len(cuts) > 8
    for where, _, machine in cuts:
        boot = machine.start()
        assert booted_revision(boot) == 2, where
        assert [item.position for item in boot.rejected] == [FOUR.position], where
        boot = machine.crash(1)
        assert booted_revision(boot) == 2, f"{where}: also the next time"
        machine.disk.close()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each log be compacted from the second change on."""
    monkeypatch.setattr(limits, "COMPACT_RECORDS_MAX", 2)
