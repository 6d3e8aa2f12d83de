"""A catalog that is filled in bulk equals one that is made by registrations."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from broadsheet.v1 import registry_service_pb2
from controlplane.catalog import registration
from controlplane.store.schema import metadata
from controlplane.store.store import Store
from tests import full_catalog
from tests.registry_world import NO_CONTEXT, START, World, spec


@asynccontextmanager
async def _world(url: str, directory: Path) -> AsyncIterator[World]:
    """A registry with a constant time and numbered identities."""
    uids = itertools.count()
    async with Store.open(url, clock=lambda: START, new_uid=lambda: f"uid-{next(uids)}") as store:
        world = World(store, directory)
        try:
            yield world
        finally:
            world.verifier.close()


async def _rows(store: Store) -> Mapping[str, Sequence[object]]:
    """All rows of the store."""
    found: dict[str, Sequence[object]] = {}
    async with store._begin_read() as connection:
        for table in metadata.sorted_tables:
            rows = (await connection.execute(select(table).order_by(*table.primary_key.columns))).all()
            found[table.name] = [dict(row._mapping) for row in rows]
    return found


async def _register(world: World) -> None:
    await world.register_model("m", spec(scaling={"maxReplicas": 3}))
    await world.register_adapter("m", "a")
    await world.register_adapter("m", "b")
    await world.register_model("n")
    await world.register_adapter("n", "a")


async def _drafts(world: World) -> Sequence[full_catalog.Draft]:
    """Drafts of what `_register` registers, made from the result."""
    revision = (await world.store.adapters.get_any("m", "a")).revision

    def adapter(model_id: str, adapter_id: str) -> registration.AdapterDraft:
        return full_catalog.adapter_draft(model_id, adapter_id, revision.source, revision.weights)

    return (
        full_catalog.model_draft("m", spec(scaling={"maxReplicas": 3})),
        adapter("m", "a"),
        adapter("m", "b"),
        full_catalog.model_draft("n", spec()),
        adapter("n", "a"),
    )


@pytest.mark.parametrize("per_transaction", [2, 100])
async def test_every_row_is_as_a_registration_writes_it(
    new_store_url: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_transaction: int
) -> None:
    monkeypatch.setattr(full_catalog, "RESOURCES_PER_TRANSACTION", per_transaction)
    progress: list[int] = []
    async with _world(new_store_url(), tmp_path) as registered, _world(new_store_url(), tmp_path) as filled:
        await _register(registered)
        revision = await full_catalog.fill(filled.store, await _drafts(registered), on_progress=progress.append)
        assert await _rows(filled.store) == await _rows(registered.store)
        assert revision == await filled.revision() == 5
    assert progress == ([2, 4, 5] if per_transaction == 2 else [5])


async def test_a_filled_catalog_can_be_changed(new_store_url: Callable[[], str], tmp_path: Path) -> None:
    async with _world(new_store_url(), tmp_path) as registered, _world(new_store_url(), tmp_path) as world:
        await _register(registered)
        await full_catalog.fill(world.store, await _drafts(registered))
        for revision in range(6):
            await world.check_digest(revision)
        # The same registrations again change nothing.
        await _register(world)
        assert await world.revision() == 5
        assert (await world.register_adapter("n", "b")).catalog_revision == 6
        assert await world.delete_model("m", force=True) == 7
        await world.check_digest(7)
        listed = await world.registry.ListAdapters(
            registry_service_pb2.ListAdaptersRequest(parent="models/-"), NO_CONTEXT
        )
        assert [adapter.name for adapter in listed.adapters] == ["models/n/adapters/a", "models/n/adapters/b"]
