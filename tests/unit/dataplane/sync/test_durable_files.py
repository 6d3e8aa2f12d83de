"""The order of flushes and renames."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataplane.sync.durable_files import write_file
from tests.disk import ONE, TWO, Machine, booted_revision


def test_partial_files_of_interrupted_writes_are_removed(machine: Machine) -> None:
    machine.disk.save(ONE)
    machine.kill()
    (machine.directory / "CURRENT.tmp").write_text("half")
    (machine.directory / "snapshots" / "x.snapshot.tmp").write_text("half")
    assert booted_revision(machine.start()) == 1
    assert not list(machine.directory.rglob("*.tmp"))


def test_a_file_is_flushed_before_its_rename_and_the_directory_after(
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


def test_only_its_user_can_read_a_file(tmp_path: Path) -> None:
    # A snapshot has the hashes and scopes of API keys.
    write_file(tmp_path / "a", lambda file: file.write(b"x"))
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
