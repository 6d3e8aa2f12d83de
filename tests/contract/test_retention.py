"""Compaction: which snapshots are kept, and what is removed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Connection, func, select

from controlplane import errors
from controlplane.store.databases import database
from controlplane.store.retention import Retention
from controlplane.store.schema import blobs, entries
from tests.registry_world import World, open_world, spec

NO_AGE = timedelta(0)


async def _compact(world: World, retention: Retention, oldest_in_use: int | None = None) -> int:
    removed = 0
    while some := await world.store.compact(retention, oldest_in_use):
        removed += some
    return removed


async def _fill(world: World, revisions: int) -> None:
    """A model that never changes, and a model that always does."""
    await world.register_model("still")
    for number in range(revisions - 1):
        await world.register_model("moving", spec(scaling={"minReplicas": number}))


async def _rows(world: World) -> tuple[int, int]:
    """The number of entries in the whole history, and of blobs."""
    async with world.store._begin_read() as connection:
        counts = [
            (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in (entries, blobs)
        ]
    return counts[0], counts[1]


async def test_compaction_removes_what_no_kept_snapshot_needs(world: World) -> None:
    await _fill(world, 20)
    before = {revision: await world.entries(revision) for revision in range(16, 21)}
    assert await _rows(world) == (20, 20)
    assert await _compact(world, Retention(snapshots=5, age=NO_AGE)) > 0
    assert await _rows(world) == (6, 6)
    for revision, kept in before.items():
        assert await world.entries(revision) == kept
        await world.check_digest(revision)
    listed = await world.store.revisions.list(before_revision=None, limit=100)
    assert [commit.head.position.revision for commit in listed] == [20, 19, 18, 17, 16]
    with pytest.raises(errors.NotFound, match="15 is not kept any more; the oldest that is kept is 16"):
        await world.entries(15)
    with pytest.raises(errors.NotFound, match="21 does not exist; the newest is 20"):
        await world.store.revisions.commit_at(21)
    assert await _compact(world, Retention(snapshots=5, age=NO_AGE)) == 0


async def test_all_young_snapshots_are_kept(world: World) -> None:
    await _fill(world, 20)
    # Each reading of the test's clock is a second later.
    assert await _compact(world, Retention(snapshots=1, age=timedelta(hours=1))) == 0
    assert await world.store.compact(Retention(snapshots=1, age=timedelta(seconds=12)), None) > 0
    oldest = (await world.store.revisions.list(before_revision=None, limit=100))[-1].head.position.revision
    assert 2 < oldest < 20
    await world.check_digest(oldest)


async def test_a_snapshot_that_is_being_sent_is_kept(world: World) -> None:
    await _fill(world, 20)
    before = await world.entries(3)
    await _compact(world, Retention(snapshots=2, age=NO_AGE), oldest_in_use=3)
    assert await world.entries(3) == before
    await _compact(world, Retention(snapshots=2, age=NO_AGE))
    with pytest.raises(errors.NotFound):
        await world.entries(3)


async def test_the_newest_snapshot_is_always_kept(world: World) -> None:
    await _fill(world, 5)
    await _compact(world, Retention(snapshots=1, age=NO_AGE))
    await world.check_digest(5)
    await world.register_model("moving", spec(scaling={"minReplicas": 0}))
    await world.delete_model("still")
    await _compact(world, Retention(snapshots=1, age=NO_AGE))
    await world.check_digest(7)
    assert await _rows(world) == (1, 1)


async def test_a_blob_that_is_used_again_is_kept(world: World) -> None:
    first = await world.register_model("m", labels={"a": "1"})
    await world.register_model("m", labels={"a": "2"})
    await world.register_model("m", labels={"a": "1"})
    assert first.catalog_revision == 1
    await _compact(world, Retention(snapshots=1, age=NO_AGE))
    assert len(await world.entries(3)) == 1
    await world.check_digest(3)


async def test_migrations_run_down_and_up_on_a_filled_store(store_url: str, tmp_path: Path) -> None:
    async with open_world(store_url, tmp_path) as world:
        await _fill(world, 5)
        await world.register_adapter("still", "a")
        before = [await world.entries(revision) for revision in range(1, 7)]
        head = await world.store.head()

    def down(connection: Connection) -> None:
        command.downgrade(database.migrations(connection), "0001")

    async with database.open_database(store_url, connections_max=4) as opened, opened.begin_setup() as connection:
        await connection.run_sync(down)
    async with open_world(store_url, tmp_path) as world:
        assert await world.store.head() == head
        assert [await world.entries(revision) for revision in range(1, 7)] == before
        assert (await world.register_model("another")).catalog_revision == 7
        await world.check_digest(7)
