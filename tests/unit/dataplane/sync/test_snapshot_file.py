"""Damaged files are noticed, and never make another snapshot."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.sync.events import Rejected
from dataplane.sync.stored.booting import CORRUPT_ON_DISK
from tests.disk import ONE, THREE, TWO, Machine, booted_revision, change, snapshot


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove", "append"])
def test_a_damaged_current_is_moved_aside_and_previous_is_booted(machine: Machine, damage: str) -> None:
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
    assert booted_revision(boot) == 1
    assert [item.reason for item in boot.unreadable] == [CORRUPT_ON_DISK]
    # The file is to blame, not the snapshot: it is not rejected.
    assert boot.rejected == ()
    assert (machine.directory / "aside" / path.name).exists() is (damage != "remove")
    machine.disk.save(TWO)
    machine.kill()
    assert booted_revision(machine.start()) == 2


@pytest.mark.parametrize("content", [b"../../etc/passwd", b"", b"\xff\xfe", None])
def test_with_a_damaged_pointer_the_same_snapshot_is_booted(machine: Machine, content: bytes | None) -> None:
    machine.disk.save(ONE)
    machine.disk.save(TWO)
    machine.disk.save(THREE, change(TWO, THREE))
    machine.live_through_probation()
    machine.kill()
    pointer = machine.directory / "CURRENT"
    if content is None:
        pointer.unlink()
    else:
        pointer.write_bytes(content)
    assert booted_revision(machine.start()) == 3
    machine.kill()
    assert booted_revision(machine.start()) == 3


def test_with_a_damaged_pointer_the_only_snapshot_is_booted(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.kill()
    (machine.directory / "CURRENT").write_text("nonsense")
    assert booted_revision(machine.start()) == 1


def test_with_a_damaged_pointer_and_file_previous_is_booted(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.disk.save(TWO)
    machine.kill()
    machine.pointed_to("CURRENT").write_bytes(b"nonsense")
    (machine.directory / "CURRENT").write_text("nonsense")
    assert booted_revision(machine.start()) == 1


def test_with_both_files_damaged_no_snapshot_is_booted(machine: Machine) -> None:
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
    assert booted_revision(machine.start()) == 3


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    """Every file of a directory with two snapshots, a change of the second, and a rejection."""
    machine = Machine(tmp_path_factory.mktemp("written") / "catalog")
    machine.start()
    machine.disk.save(ONE)
    machine.disk.save(TWO)
    machine.disk.save(THREE, change(TWO, THREE))
    machine.disk.reject(Rejected(position=snapshot(4).position, reason="BAD", message="words"))
    machine.disk.close()
    files = (path for path in machine.directory.rglob("*") if path.is_file() and path.name != "RESERVE")
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
    stored = [(item.position, item.entries) for item in (ONE, TWO, THREE)]
    assert (boot.snapshot.position, boot.snapshot.entries) in stored
