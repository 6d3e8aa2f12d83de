"""Accepted snapshots are on disk, also when they cannot be put into service."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dataplane.settings import Settings
from dataplane.snapshot.snapshot import Snapshot
from dataplane.sync.directory import SnapshotDirectory
from dataplane.sync.events import Accepted
from dataplane.sync.keeper import ActivationFailed, SnapshotKeeper
from tests.disk import ONE, TWO, become_read_only
from tests.raw import POLICY, model, position, raws

ENTRIES = raws(model("a"))


def keeper(directory: Path, activated: list[Snapshot], *, fault: Exception | None = None) -> SnapshotKeeper:
    async def activate(snapshot: Snapshot) -> None:
        if fault is not None:
            raise fault
        activated.append(snapshot)

    settings = Settings(data_dir=directory, controlplane="127.0.0.1:1")
    return SnapshotKeeper(settings, instance_uid="test", policy=POLICY, activate=activate)


async def test_accepted_snapshot_is_in_service_and_on_disk(tmp_path: Path) -> None:
    activated: list[Snapshot] = []
    first = keeper(tmp_path, activated)
    await first.load()
    running = asyncio.create_task(first.run())
    assert await first.on_snapshot(position(ENTRIES, 3), ENTRIES) == Accepted(with_errors=False)
    assert [snapshot.position.revision for snapshot in activated] == [3]
    running.cancel()
    await asyncio.wait([running])

    second = keeper(tmp_path, activated)
    await second.load()
    assert second.snapshot is not None
    assert second.snapshot.position == position(ENTRIES, 3)
    running = asyncio.create_task(second.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])


async def test_snapshot_on_a_read_only_disk_is_put_into_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = SnapshotDirectory(tmp_path / "snapshots")
    directory.open()
    directory.save(ONE)
    directory.close()
    become_read_only(monkeypatch)
    activated: list[Snapshot] = []
    started = keeper(tmp_path, activated)
    await started.load()
    running = asyncio.create_task(started.run())
    await asyncio.sleep(0)
    assert [snapshot.position for snapshot in activated] == [ONE.position]
    assert await started.on_snapshot(TWO.position, TWO.entries) == Accepted(with_errors=False)
    running.cancel()
    await asyncio.wait([running])


async def test_failed_activation_ends_the_agent_and_rejects_nothing(tmp_path: Path) -> None:
    first = keeper(tmp_path, [], fault=OSError("the relay is gone"))
    await first.load()
    running = asyncio.create_task(first.run())
    await asyncio.sleep(0)
    deciding = asyncio.create_task(first.on_snapshot(position(ENTRIES, 3), ENTRIES))
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(running, 10)
    assert caught.group_contains(ActivationFailed)
    assert not deciding.done()
    deciding.cancel()
    await asyncio.wait([deciding])

    second = keeper(tmp_path, [])
    await second.load()
    assert second.snapshot is not None
    assert second.snapshot.position.revision == 3
    running = asyncio.create_task(second.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
