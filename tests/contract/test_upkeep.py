"""Upkeep, such as reports of data planes: no catalog revision, and no wait for catalog changes."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from broadsheet.v1 import registry_service_pb2, snapshot_service_pb2
from controlplane.catalog import domain
from controlplane.store.databases import postgres as store_postgres
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction
from tests.postgres_server import PostgresServer
from tests.registry_world import NO_CONTEXT, START, World

RECORD = domain.DataPlaneRecord(
    id="edge",
    instance_uid="one",
    serving=None,
    target=domain.Position(store_uid="s", revision=3, digest=b"\1" * 32),
    phase=snapshot_service_pb2.PHASE_REJECTED,
    reason="TOO_LARGE",
    message="too large",
    http_address="http://127.0.0.1:8000",
    software_version="0.1.0",
    connect_time=START,
    last_seen_time=datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC),
    identity=domain.Identity.BOUND,
    labels={"region": "eu", "tier": "canary"},
)


LATER = START + timedelta(days=365)
"""After every purge time and every audit event."""

Upkeep = Callable[[Store], Coroutine[Any, Any, object]]


async def report(store: Store) -> None:
    """A data plane reports."""
    await store.upsert_data_plane(RECORD)


async def purge(store: Store) -> None:
    """The background purge looks for expired resources."""
    await store.purge_expired()


async def delete_audit_events(store: Store) -> None:
    """Expired audit events are deleted."""
    assert await store.delete_audit_events(before=LATER, limit=100) == 1


@asynccontextmanager
async def held_change(store: Store) -> AsyncIterator[None]:
    """A change of the catalog that holds the lock on the catalog during the block."""
    began, release = asyncio.Event(), asyncio.Event()

    async def work(transaction: WriteTransaction) -> None:
        began.set()
        await release.wait()

    change = asyncio.create_task(store.write(work, method="", resource=""))
    await began.wait()
    try:
        yield
    finally:
        release.set()
        await change


async def test_data_planes_are_kept_and_make_no_revision(world: World) -> None:
    await world.store.upsert_data_plane(RECORD)
    await world.store.upsert_data_plane(dataclasses.replace(RECORD, id="core"))
    changed = dataclasses.replace(RECORD, serving=RECORD.target, phase=snapshot_service_pb2.PHASE_ACTIVE, reason="")
    await world.store.upsert_data_plane(changed)
    assert await world.store.get_data_plane("edge") == changed
    assert await world.store.get_data_plane("nobody") is None
    assert [record.id for record in await world.store.data_planes.list()] == ["core", "edge"]
    assert [record.id for record in await world.store.data_planes.list(after_id="core", limit=1)] == ["edge"]
    assert await world.revision() == 0


@pytest.mark.parametrize("upkeep", [report, purge, delete_audit_events])
async def test_upkeep_is_done_while_a_change_of_the_catalog_is_open(
    postgres_server: PostgresServer, tmp_path: Path, upkeep: Upkeep
) -> None:
    async with Store.open(postgres_server.new_database(), connections_max=store_postgres.CONNECTIONS_MIN) as store:
        world = World(store, tmp_path)
        try:
            await world.register_model("m")
            async with held_change(store):
                # Far below the time after which PostgreSQL gives up to wait for a lock.
                await asyncio.wait_for(upkeep(store), timeout=2.0)
        finally:
            world.verifier.close()


async def test_upkeep_does_not_queue_behind_changes_of_the_catalog(world: World) -> None:
    """SQLite has one writer at a time, so there it waits, but only for the change that is open."""
    order: list[str] = []

    async def change(number: int) -> None:
        await world.register_model(f"m{number}")
        order.append("change")

    async def upkeep() -> None:
        await report(world.store)
        order.append("upkeep")

    async with held_change(world.store):
        tasks = [asyncio.create_task(change(number)) for number in range(10)]
        await asyncio.sleep(0.05)
        tasks.append(asyncio.create_task(upkeep()))
        await asyncio.sleep(0.05)
    await asyncio.gather(*tasks)
    assert order.index("upkeep") <= 2


async def test_a_purge_skips_a_resource_that_is_being_undeleted(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """Clocks of control planes differ, so one may purge what another may still undelete."""
    url = postgres_server.new_database()
    async with (
        Store.open(url, clock=lambda: START) as store,
        Store.open(url, clock=lambda: START + domain.DELETED_RETENTION) as ahead,
    ):
        world = World(store, tmp_path)
        try:
            await world.register_model("m")
            await world.register_adapter("m", "a")
            await world.delete_model("m", force=True)
            is_locked, may_commit = asyncio.Event(), asyncio.Event()

            async def look(transaction: WriteTransaction) -> None:
                model = await transaction.models.find_any("m")
                assert model is not None
                assert len(await transaction.adapters.deleted_with(model)) == 1
                is_locked.set()
                await may_commit.wait()

            undeletion = asyncio.create_task(store.write(look, method="", resource=""))
            await is_locked.wait()
            assert await ahead.purge_expired() == 0
            may_commit.set()
            await undeletion
            request = registry_service_pb2.UndeleteModelRequest(name="models/m")
            await world.registry.UndeleteModel(request, NO_CONTEXT)
            assert await ahead.purge_expired() == 0
            assert (await store.adapters.get("m", "a")).delete_time is None
        finally:
            world.verifier.close()


async def test_a_resource_that_is_being_purged_cannot_be_undeleted(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.new_database()
    async with (
        Store.open(url, clock=lambda: START) as store,
        Store.open(url, clock=lambda: START + domain.DELETED_RETENTION) as ahead,
    ):
        world = World(store, tmp_path)
        try:
            await world.register_model("m")
            await world.register_adapter("m", "a")
            await world.delete_model("m", force=True)
            purged: list[int] = []
            found: list[domain.Model | None] = []

            async def look(transaction: WriteTransaction) -> None:
                # The lock is taken by `find_any`, so a purge that came before it wins.
                purged.append(await ahead.purge_expired())
                found.append(await transaction.models.find_any("m"))

            await store.write(look, method="", resource="")
            assert (purged, found) == ([2], [None])
            assert (await world.register_model("m")).created
        finally:
            world.verifier.close()
