from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.snapshot.accept import accept
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from dataplane.sync.directory import (
    ASIDE_MAX,
    CORRUPT_ON_DISK,
    CRASHED_REPEATEDLY,
    PROBATION_S,
    Boot,
    DirectoryInUse,
    Disk,
    DiskError,
)
from dataplane.sync.events import Rejected
from tests.raw import POLICY, adapter, model, position, raws


def verify(at: Position, entries: Sequence[RawEntry]) -> Snapshot | Rejection:
    return accept(at, entries, held=None, policy=POLICY)


def snapshot(revision: int, *, store_uid: str = "store-a") -> Snapshot:
    entries = raws(model("a", number=revision), adapter("a", "x"))
    made = verify(position(entries, revision, store_uid=store_uid), entries)
    assert isinstance(made, Snapshot)
    return made


ONE, TWO, THREE = snapshot(1), snapshot(2), snapshot(3)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Machine:
    """A machine with one directory, on which the data plane is started, stopped and killed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock()
        self.disk = Disk(directory, clock=self.clock)

    def start(self) -> Boot:
        self.disk = Disk(self.directory, clock=self.clock)
        self.disk.open()
        return self.disk.boot(verify)

    def kill(self) -> None:
        """The process goes, and the kernel lets go of its lock."""
        assert self.disk._lock is not None
        self.disk._lock.close()

    def live_through_probation(self) -> None:
        self.clock.now_s += PROBATION_S
        assert self.disk.settle()

    def snapshot_files(self) -> list[Path]:
        return sorted((self.directory / "snapshots").iterdir())

    def pointed_to(self, pointer: str) -> Path:
        return self.directory / "snapshots" / (self.directory / pointer).read_text().strip()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "catalog")
    machine.start()
    yield machine
    machine.kill()


def served(boot: Boot) -> int | None:
    return boot.snapshot.position.revision if boot.snapshot else None


def test_nothing_is_found_in_a_new_directory(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "deep" / "catalog")
    assert machine.start() == Boot(snapshot=None, rejected=(), unreadable=())
    machine.kill()


def test_what_was_saved_is_found_again(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.kill()
    boot = machine.start()
    assert boot.snapshot is not None
    assert boot.snapshot.position == ONE.position
    assert boot.snapshot.entries == ONE.entries
    assert boot.snapshot.served == ONE.served


def test_the_newest_is_booted_and_what_nothing_needs_is_removed(machine: Machine) -> None:
    for each in (ONE, TWO, THREE):
        machine.disk.save(each)
        machine.live_through_probation()
    assert machine.pointed_to("PREVIOUS").name.startswith("00000000000000000002")
    assert len(machine.snapshot_files()) == 2
    machine.kill()
    assert served(machine.start()) == 3


def test_the_empty_catalogs_of_two_stores_are_two_files(machine: Machine) -> None:
    machine.disk.save(snapshot(1, store_uid="store-a"))
    machine.live_through_probation()
    machine.disk.save(snapshot(1, store_uid="store-b"))
    assert len(machine.snapshot_files()) == 2


def test_two_processes_cannot_share_a_directory(machine: Machine) -> None:
    with pytest.raises(DirectoryInUse):
        Disk(machine.directory).open()
    machine.disk.close()
    machine.start()


def test_leftovers_of_interrupted_writes_are_cleared(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.kill()
    (machine.directory / "CURRENT.tmp").write_text("half")
    (machine.directory / "snapshots" / "x.snapshot.tmp").write_text("half")
    assert served(machine.start()) == 1
    assert not list(machine.directory.rglob("*.tmp"))


# --- damage


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove", "append"])
def test_a_damaged_current_gives_way_to_previous_and_is_kept_for_people(machine: Machine, damage: str) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    machine.kill()
    path = machine.pointed_to("CURRENT")
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        damaged = {
            "truncate": content[:-1],
            "flip": bytes([content[0], content[1] ^ 1]) + content[2:],
            "empty": b"",
            "append": content + b"\0",
        }[damage]
        path.write_bytes(damaged)
    boot = machine.start()
    assert served(boot) == 1
    assert [one.reason for one in boot.unreadable] == [CORRUPT_ON_DISK]
    # It is wanted again: the snapshot is not to blame for its file.
    assert boot.rejected == ()
    assert (machine.directory / "aside" / path.name).exists() is (damage != "remove")
    machine.disk.save(TWO)
    machine.kill()
    assert served(machine.start()) == 2


def test_a_damaged_pointer_gives_way_to_previous(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.disk.save(TWO)
    machine.kill()
    (machine.directory / "CURRENT").write_text("../../etc/passwd")
    assert served(machine.start()) == 1


def test_when_both_are_damaged_nothing_is_served(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.disk.save(TWO)
    machine.kill()
    for path in machine.snapshot_files():
        path.write_bytes(b"nonsense")
    boot = machine.start()
    assert boot.snapshot is None
    assert len(boot.unreadable) == 2
    machine.disk.save(THREE)
    machine.kill()
    assert served(machine.start()) == 3


def test_what_accept_refuses_is_not_booted(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.kill()
    disk = Disk(machine.directory)
    disk.open()
    boot = disk.boot(lambda at, entries: Rejection(reason="BAD", message="words"))
    disk.close()
    assert boot.snapshot is None
    assert boot.unreadable[0].message == "BAD: words"
    machine.start()


def test_no_more_than_a_few_files_are_kept_aside(machine: Machine) -> None:
    for revision in range(1, 10):
        machine.disk.save(snapshot(revision))
        machine.kill()
        machine.pointed_to("CURRENT").write_bytes(b"nonsense")
        machine.start()
    assert len(list((machine.directory / "aside").iterdir())) == ASIDE_MAX


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    """Every file of a directory with two snapshots and a rejection."""
    machine = Machine(tmp_path_factory.mktemp("written") / "catalog")
    machine.start()
    machine.disk.save(ONE)
    machine.disk.save(TWO)
    machine.disk.reject(Rejected(position=THREE.position, reason="BAD", message="words"))
    machine.kill()
    files = (path for path in machine.directory.rglob("*") if path.is_file())
    return {path.relative_to(machine.directory): path.read_bytes() for path in files}


@settings(max_examples=800, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_in_any_file_never_makes_another_snapshot(
    data: st.DataObject, written: dict[Path, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    damaged = data.draw(st.sampled_from(sorted(path for path, content in written.items() if content)))
    machine = Machine(tmp_path_factory.getbasetemp() / "damaged" / "catalog")
    for path, content in written.items():
        (machine.directory / path).parent.mkdir(parents=True, exist_ok=True)
        (machine.directory / path).write_bytes(content)
    flipped = bytearray(written[damaged])
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (machine.directory / damaged).write_bytes(flipped)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        boot = machine.start()
    machine.kill()
    shutil.rmtree(machine.directory)
    assert boot.snapshot is not None
    assert (boot.snapshot.position, boot.snapshot.entries) in [(one.position, one.entries) for one in (ONE, TWO)]


# --- crashes


def test_two_crashes_on_probation_bring_previous_back_and_are_told(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    machine.clock.now_s += PROBATION_S - 1
    machine.kill()
    assert served(machine.start()) == 2
    machine.kill()
    boot = machine.start()
    assert served(boot) == 1
    (rejected,) = boot.rejected
    assert (rejected.position, rejected.reason) == (TWO.position, CRASHED_REPEATEDLY)
    machine.kill()
    again = machine.start()
    assert served(again) == 1
    assert again.rejected == boot.rejected


def test_crashes_after_probation_are_not_held_against_a_snapshot(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    for _ in range(5):
        machine.live_through_probation()
        machine.kill()
        assert served(machine.start()) == 2


def test_orderly_stops_are_not_crashes(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    for _ in range(5):
        machine.disk.close()
        assert served(machine.start()) == 2


def test_a_crash_then_a_long_life_starts_the_count_anew(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    for _ in range(3):
        machine.kill()
        assert served(machine.start()) == 2
        machine.live_through_probation()
        machine.kill()
        assert served(machine.start()) == 2
        machine.live_through_probation()


def test_without_a_previous_the_crashing_one_is_all_there_is(machine: Machine) -> None:
    machine.disk.save(ONE)
    for _ in range(4):
        machine.kill()
        assert served(machine.start()) == 1


def test_previous_is_one_that_has_proved_itself(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    machine.disk.save(THREE)
    assert machine.pointed_to("PREVIOUS").name.startswith("00000000000000000001")
    assert len(machine.snapshot_files()) == 2


def test_a_restart_does_not_unprove_a_snapshot(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.live_through_probation()
    machine.disk.save(TWO)
    machine.live_through_probation()
    machine.kill()
    assert served(machine.start()) == 2
    machine.disk.save(THREE)
    assert machine.pointed_to("PREVIOUS").name.startswith("00000000000000000002")


# --- rejections


def test_the_newest_sixteen_rejections_are_remembered(machine: Machine) -> None:
    for revision in range(1, 21):
        at = Position(store_uid="s", revision=revision, digest=bytes(32))
        machine.disk.reject(Rejected(position=at, reason="BAD", message="words"))
    machine.kill()
    boot = machine.start()
    assert [one.position.revision for one in boot.rejected] == list(range(5, 21))
    assert {(one.reason, one.message) for one in boot.rejected} == {("BAD", "words")}


# --- a disk that fails


def full(*_: object, **__: object) -> object:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("point", [0, 1, 2, 3])
def test_a_full_disk_is_said_and_leaves_what_was_there(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    """`point`: the how many-th flush fails."""
    machine.disk.save(ONE)
    machine.live_through_probation()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_after(point, os.fsync))
        with pytest.raises(DiskError, match="No space left"):
            machine.disk.save(TWO)
    machine.kill()
    assert served(machine.start()) == 1
    machine.disk.save(THREE)
    machine.kill()
    assert served(machine.start()) == 3
    assert not list(machine.directory.rglob("*.tmp"))


def failing_after(calls: int, function: Callable[[int], None]) -> Callable[[int], None]:
    remaining = calls

    def call(descriptor: int) -> None:
        nonlocal remaining
        if remaining == 0:
            full()
        remaining -= 1
        function(descriptor)

    return call


def test_a_rejection_that_cannot_be_kept_is_said_and_remembered_in_memory(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskError):
            machine.disk.reject(Rejected(position=ONE.position, reason="BAD", message=""))
    machine.disk.reject(Rejected(position=TWO.position, reason="BAD", message=""))
    machine.kill()
    assert [one.position for one in machine.start().rejected] == [ONE.position, TWO.position]


def test_a_disk_that_cannot_be_written_can_still_be_booted_from(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.disk.save(ONE)
    machine.kill()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert served(machine.start()) == 1


def test_a_place_that_is_no_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        Disk(tmp_path / "file" / "catalog").open()


def test_what_is_flushed_is_the_file_before_its_rename_and_the_directory_after(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def seen_fsync(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        steps.append(f"flush {'new file' if name.endswith('.tmp') else name}")
        fsync(descriptor)

    def seen_rename(path: Path, target: Path) -> Path:
        steps.append(f"rename to {'snapshot' if target.suffix == '.snapshot' else target.name}")
        return rename(path, target)

    machine.disk.save(ONE)
    machine.live_through_probation()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", seen_fsync)
        patch.setattr(Path, "replace", seen_rename)
        machine.disk.save(TWO)
    assert steps == [
        *("flush new file", "rename to snapshot", "flush snapshots"),
        *("flush new file", "rename to PREVIOUS", "flush catalog"),
        *("flush new file", "rename to PROBATION", "flush catalog"),
        *("flush new file", "rename to CURRENT", "flush catalog"),
    ]
