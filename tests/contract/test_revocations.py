"""Revocations of API keys are numbered without gaps, on both databases."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Connection, func, select

from controlplane import errors
from controlplane.store.backup import backup as store_backup
from controlplane.store.databases import database
from controlplane.store.databases.database import open_database
from controlplane.store.schema import catalog
from controlplane.store.schema import revocations as table
from tests.contract.test_api_keys import create, revoke
from tests.contract.test_groups import together
from tests.registry_world import World, open_world


async def numbered(world: World) -> Sequence[str]:
    """Uids of the revoked keys in the order of their sequences."""
    return await world.store.revocations.after(0, limit=1000)


async def test_revocations_are_numbered_in_the_order_in_which_they_were_made(world: World) -> None:
    uids = {key: (await create(world, key)).api_key.uid for key in ("a", "b", "c")}
    assert (await world.store.head()).revocations_sequence == 0
    assert [(await revoke(world, key)).revocations_sequence for key in ("b", "a")] == [1, 2]
    assert await numbered(world) == [uids["b"], uids["a"]]
    assert await world.store.revocations.after(1, limit=1000) == [uids["a"]]
    assert await world.store.revocations.after(0, limit=1) == [uids["b"]]
    assert (await world.store.head()).revocations_sequence == 2
    assert world.published[-1].revocations_sequence == 2
    # Other changes go on from there.
    await world.register_model("m")
    assert world.published[-1].revocations_sequence == 2
    assert (await revoke(world, "c")).revocations_sequence == 3


async def test_a_key_is_numbered_once_however_often_it_is_revoked(world: World) -> None:
    await create(world)
    request_id = str(uuid.uuid4())
    first = await revoke(world, request_id=request_id)
    assert (await revoke(world, request_id=request_id)) == first
    assert (await revoke(world)).revocations_sequence == 1
    assert len(await numbered(world)) == 1


async def test_a_dry_run_and_a_refusal_take_no_number(world: World) -> None:
    await create(world)
    assert (await revoke(world, validate_only=True)).revocations_sequence == 1
    with pytest.raises(errors.NotFound):
        await revoke(world, "nobody")
    assert await numbered(world) == []
    assert (await revoke(world)).revocations_sequence == 1


async def test_revocations_of_one_group_have_numbers_of_their_own(world: World) -> None:
    uids = {key: (await create(world, key)).api_key.uid for key in ("a", "b", "c", "d")}
    answers = await together(
        world,
        revoke(world, "a"),
        revoke(world, "b", validate_only=True),
        revoke(world, "nobody"),
        world.register_model("m"),
        revoke(world, "c"),
        revoke(world, "a"),
        revoke(world, "d"),
    )
    assert isinstance(answers[2], errors.NotFound)
    assert [answers[index].revocations_sequence for index in (0, 4, 5, 6)] == [1, 2, 1, 3]
    assert await numbered(world) == [uids["a"], uids["c"], uids["d"]]
    assert (await world.store.head()).revocations_sequence == 3


async def test_concurrent_revocations_leave_no_gap(world: World) -> None:
    for number in range(20):
        await create(world, f"k{number}")
    answers = await asyncio.gather(*(revoke(world, f"k{number}") for number in range(20)))
    assert sorted(answer.revocations_sequence for answer in answers) == list(range(1, 21))


async def test_keys_that_were_revoked_before_the_upgrade_are_numbered_by_it(store_url: str, tmp_path: Path) -> None:
    async with open_world(store_url, tmp_path) as world:
        uids = {key: (await create(world, key)).api_key.uid for key in ("a", "b", "c")}
        for key in ("c", "a"):
            await revoke(world, key)
    async with open_database(store_url, connections_max=4) as opened, opened.begin_setup() as connection:
        await connection.run_sync(_downgrade)
    async with open_world(store_url, tmp_path) as world:
        assert await numbered(world) == [uids["c"], uids["a"]]
        assert (await revoke(world, "b")).revocations_sequence == 3


async def test_a_restored_store_has_the_revocations_of_its_backup(
    store_url: str, new_store_url: Callable[[], str], tmp_path: Path
) -> None:
    file, target = tmp_path / "a.backup", new_store_url()
    async with open_world(store_url, tmp_path) as world:
        uids = {key: (await create(world, key)).api_key.uid for key in ("a", "b")}
        await revoke(world, "a")
        await store_backup.backup(store_url, file)
        await revoke(world, "b")
    await store_backup.restore(target, file)
    async with open_world(target, tmp_path) as world:
        assert await numbered(world) == [uids["a"]]
        assert (await revoke(world, "b")).revocations_sequence == 2


async def test_the_newest_number_is_that_of_the_rows(world: World) -> None:
    for key in ("a", "b"):
        await create(world, key)
        await revoke(world, key)
    async with world.store._begin_read() as connection:
        newest = (await connection.execute(select(func.max(table.c.sequence)))).scalar_one()
        kept = (await connection.execute(select(catalog.c.revocations_sequence))).scalar_one()
    assert newest == kept == 2


def _downgrade(connection: Connection) -> None:
    command.downgrade(database.migrations(connection), "0014")
