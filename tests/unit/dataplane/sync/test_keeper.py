"""Accepted snapshots are on disk, also when they cannot be put into service."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.settings import Settings
from dataplane.snapshot.change import Change
from dataplane.snapshot.snapshot import Snapshot
from dataplane.sync.directory import SnapshotDirectory
from dataplane.sync.disk.file_disk import FileDisk
from dataplane.sync.events import Accepted, Diverged
from dataplane.sync.keeper import ActivationFailed, SnapshotKeeper
from dataplane.sync.snapshot_file import StoredSnapshot
from dataplane.sync.stored.booting import CRASHES_MAX
from tests.disk import ONE, TWO, become_read_only, raise_disk_full, snapshot
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
    directory = SnapshotDirectory(FileDisk(tmp_path / "snapshots"))
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
    accepted = await started.on_snapshot(TWO.position, TWO.entries)
    assert isinstance(accepted, Accepted)
    assert "Read-only file system" in accepted.warning
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


def stored(content: Snapshot) -> StoredSnapshot:
    return StoredSnapshot(position=content.position, entries=content.entries)


async def started_with(directory: Path, relayed: Snapshot) -> SnapshotKeeper:
    """The keeper of an agent that finds `relayed` in the relay; it is stopped again."""
    started = keeper(directory, [])
    await started.load(stored(relayed))
    running = asyncio.create_task(started.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    return started


async def loaded(directory: Path, relayed: Snapshot) -> Snapshot | None:
    return (await started_with(directory, relayed)).snapshot


async def save(directory: Path, *snapshots: Snapshot) -> None:
    for each in snapshots:
        with_disk = SnapshotDirectory(FileDisk(directory / "snapshots"))
        with_disk.open()
        with_disk.save(each)
        with_disk.close()


@pytest.mark.parametrize("on_disk", [(), (ONE,), (snapshot(9, store_uid="store-b"),)])
async def test_relayed_snapshot_that_is_not_on_disk_stays_in_service(
    tmp_path: Path, on_disk: tuple[Snapshot, ...]
) -> None:
    """Also of another store: the relay has what was acknowledged last."""
    await save(tmp_path, *on_disk)
    assert await loaded(tmp_path, TWO) == TWO
    assert await loaded(tmp_path, ONE) == TWO, "it was not kept on disk"


async def test_newer_snapshot_on_disk_is_put_into_service(tmp_path: Path) -> None:
    await save(tmp_path, TWO)
    assert await loaded(tmp_path, ONE) == TWO


async def test_relayed_snapshot_that_fails_its_check_is_not_put_into_service(tmp_path: Path) -> None:
    await save(tmp_path, ONE)
    damaged = replace(TWO, entries=ONE.entries)
    assert await loaded(tmp_path, damaged) == ONE


async def test_relayed_snapshot_that_crashed_repeatedly_is_withdrawn(tmp_path: Path) -> None:
    await save(tmp_path, ONE, TWO)
    directory = tmp_path / "snapshots"
    crashed = {"file": (directory / "CURRENT").read_text().strip(), "crashes": CRASHES_MAX - 1}
    (directory / "PROBATION").write_text(json.dumps(crashed))
    started = await started_with(tmp_path, TWO)
    assert started.snapshot == ONE
    assert started.withdrawn == {TWO.position}


async def test_the_warning_of_a_full_disk_ends_with_the_snapshot_that_is_kept_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = keeper(tmp_path, [])
    await started.load()
    running = asyncio.create_task(started.run())
    with monkeypatch.context() as patch:
        patch.setattr("dataplane.sync.durable_files.os.fsync", raise_disk_full)
        accepted = await started.on_snapshot(ONE.position, ONE.entries)
        assert isinstance(accepted, Accepted)
        assert "revision 1 could not be kept: [Errno 28] No space left on device" in accepted.warning
    assert await started.on_snapshot(TWO.position, TWO.entries) == Accepted(with_errors=False)
    running.cancel()
    await asyncio.wait([running])


async def test_a_change_is_applied_kept_on_disk_and_put_into_service(tmp_path: Path) -> None:
    await save(tmp_path, ONE)
    activated: list[Snapshot] = []
    started = keeper(tmp_path, activated)
    await started.load()
    running = asyncio.create_task(started.run())
    await asyncio.sleep(0)
    change = Change(base=ONE.position, entries=(TWO.entries[0],), removed=frozenset())
    assert await started.on_change(TWO.position, change) == Accepted(with_errors=False)
    assert [snapshot.position for snapshot in activated] == [ONE.position, TWO.position]
    assert activated[-1].entries == TWO.entries
    running.cancel()
    await asyncio.wait([running])
    assert await loaded(tmp_path, ONE) == TWO


async def test_a_change_with_another_root_digest_is_not_put_into_service_and_not_rejected(tmp_path: Path) -> None:
    await save(tmp_path, ONE)
    started = keeper(tmp_path, [])
    await started.load()
    running = asyncio.create_task(started.run())
    await asyncio.sleep(0)
    change = Change(base=ONE.position, entries=(), removed=frozenset())
    assert await started.on_change(TWO.position, change) == Diverged()
    assert started.snapshot == ONE
    running.cancel()
    await asyncio.wait([running])
