"""Rejections are remembered across restarts."""

from __future__ import annotations

import os

import pytest

from dataplane.snapshot.snapshot import Position
from dataplane.sync.directory import (
    DiskError,
)
from dataplane.sync.events import Rejected
from tests.disk import ONE, TWO, Machine, raise_disk_full


def test_the_newest_sixteen_rejections_are_remembered(machine: Machine) -> None:
    for revision in range(1, 21):
        at = Position(store_uid="s", revision=revision, digest=bytes(32))
        machine.disk.reject(Rejected(position=at, reason="BAD", message="words"))
    machine.kill()
    boot = machine.start()
    assert [item.position.revision for item in boot.rejected] == list(range(5, 21))
    assert {(item.reason, item.message) for item in boot.rejected} == {("BAD", "words")}


def test_a_rejection_that_cannot_be_stored_raises_and_is_remembered_in_memory(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", raise_disk_full)
        with pytest.raises(DiskError):
            machine.disk.reject(Rejected(position=ONE.position, reason="BAD", message=""))
    machine.disk.reject(Rejected(position=TWO.position, reason="BAD", message=""))
    machine.kill()
    assert [item.position for item in machine.start().rejected] == [ONE.position, TWO.position]
