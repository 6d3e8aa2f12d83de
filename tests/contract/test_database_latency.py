"""Every operation of the database is timed by its kind, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from broadsheet.v1 import registry_service_pb2
from controlplane import errors
from controlplane.store.databases import timing
from controlplane.store.store import Store
from tests.registry_world import NO_CONTEXT, World
from tests.unit.controlplane.fleet_world import record


async def test_reads_writes_and_reports_are_timed(store_url: str, tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    async with Store.open(store_url, measure_database=lambda *operation: seen.append(operation)) as store:
        world = World(store, tmp_path)

        def kinds() -> set[str]:
            found = {kind for kind, _ in seen}
            assert all(0 < seconds < 10 for _, seconds in seen)
            seen.clear()
            return found

        await store.models.list(limit=1)
        assert kinds() == {timing.READ}
        await world.register_model("m")
        assert timing.CATALOG_WRITE in kinds()
        await world.registry.GetModel(registry_service_pb2.GetModelRequest(name="models/m"), NO_CONTEXT)
        assert kinds() <= {timing.READ, timing.LOOKUP}
        await store.upsert_data_plane(record("dp"))
        assert kinds() == {timing.UPKEEP_WRITE}
        tables = store.fleet_tables()
        if tables is not None:
            await tables.claim("dp", "replica")
            await tables.heartbeat("replica", None)
            assert kinds() == {timing.FLEET_WRITE}
            await tables.changes_since({}, 10.0)
            assert kinds() == {timing.FLEET_READ}
        world.verifier.close()


async def test_what_fails_is_timed_too(store_url: str) -> None:
    seen: list[str] = []
    async with Store.open(store_url, measure_database=lambda kind, _: seen.append(kind)) as store:
        with pytest.raises((errors.Unavailable, SQLAlchemyError)):
            async with store._begin_read() as connection:
                await connection.execute(text("SELECT * FROM no_such_table"))
    assert seen == [timing.READ]
