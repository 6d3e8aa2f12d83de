"""Etags and must_create: a writer can insist on what it has read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import errors
from tests.contract.resource_calls import (
    card,
    get_adapter,
    get_model,
    rollback_adapter,
    rollback_model,
    undelete_model,
    update_adapter,
    update_model,
)
from tests.registry_world import NO_CONTEXT, World


async def test_an_etag_changes_with_what_a_writer_sees(world: World) -> None:
    etags = [(await world.register_model("m")).model.etag]
    assert (await world.register_model("m")).model.etag == etags[0]
    etags.append((await world.register_model("m", labels={"a": "b"})).model.etag)
    etags.append((await world.register_model("m", labels={"a": "b"}, served_name="n")).model.etag)
    etags.append((await update_model(world, "revision.card", revision=card(description="x"))).model.etag)
    etags.append((await rollback_model(world, 1)).model.etag)
    assert (await get_model(world)).etag == etags[-1]
    assert len(set(etags)) == 5
    assert all(etag.startswith('W/"') for etag in etags)


@pytest.mark.parametrize("method", ["register", "update", "rollback", "delete", "undelete"])
async def test_a_stale_etag_aborts_and_the_error_has_both(world: World, method: str) -> None:
    stale = (await world.register_model("m")).model.etag
    current = (await world.register_model("m", served_name="n")).model.etag
    if method == "undelete":
        await world.delete_model("m")
        current = (await get_model(world)).etag
    before = await world.revision()
    calls: dict[str, Callable[[str], Awaitable[object]]] = {
        "register": lambda etag: world.register_model("m", labels={"a": "b"}, etag=etag),
        "update": lambda etag: update_model(world, "labels", labels={"a": "b"}, etag=etag),
        "rollback": lambda etag: rollback_model(world, 1, etag=etag),
        "delete": lambda etag: world.delete_model("m", etag=etag),
        "undelete": lambda etag: undelete_model(world, etag=etag),
    }
    with pytest.raises(errors.Aborted) as caught:
        await calls[method](stale)
    assert caught.value.reason == errors.Reason.ETAG_MISMATCH
    assert caught.value.metadata == {"got": stale, "current": current}
    assert [violation.field for violation in caught.value.violations] == [
        "model.etag" if method == "update" else "etag"
    ]
    assert await world.revision() == before
    await calls[method](current)


@pytest.mark.parametrize("method", ["register", "update", "rollback", "delete", "undelete"])
async def test_a_stale_etag_aborts_for_adapters_too(world: World, method: str) -> None:
    await world.register_model("m")
    stale = (await world.register_adapter("m", "a")).adapter.etag
    current = (await world.register_adapter("m", "a", served_name="n")).adapter.etag
    name = "models/m/adapters/a"
    if method == "undelete":
        await world.delete_adapter("m", "a")
        current = (await get_adapter(world)).etag
    calls: dict[str, Callable[[str], Awaitable[object]]] = {
        "register": lambda etag: world.register_adapter("m", "a", etag=etag),
        "update": lambda etag: update_adapter(world, "labels", labels={"a": "b"}, etag=etag),
        "rollback": lambda etag: rollback_adapter(world, 1, etag=etag),
        "delete": lambda etag: world.delete_adapter("m", "a", etag=etag),
        "undelete": lambda etag: world.registry.UndeleteAdapter(
            pb.UndeleteAdapterRequest(name=name, etag=etag), NO_CONTEXT
        ),
    }
    with pytest.raises(errors.Aborted) as caught:
        await calls[method](stale)
    assert caught.value.reason == errors.Reason.ETAG_MISMATCH
    await calls[method](current)


async def test_an_etag_for_an_unknown_resource_aborts(world: World) -> None:
    with pytest.raises(errors.Aborted):
        await world.register_model("m", etag='W/"0"')


async def test_of_writers_with_the_same_etag_one_wins(world: World) -> None:
    etag = (await world.register_model("m")).model.etag
    writers = (world.register_model("m", labels={"writer": str(index)}, etag=etag) for index in range(8))
    outcomes = await asyncio.gather(*writers, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Aborted"] * 7 + ["RegisterModelResponse"]
    assert await world.revision() == 2


async def test_must_create_refuses_an_existing_resource_even_if_unchanged(world: World) -> None:
    await world.register_model("m", must_create=True)
    await world.register_adapter("m", "a", must_create=True)
    for again in (world.register_model("m", must_create=True), world.register_adapter("m", "a", must_create=True)):
        with pytest.raises(errors.AlreadyExists) as caught:
            await again
        assert caught.value.reason == errors.Reason.ALREADY_REGISTERED
        assert [violation.field for violation in caught.value.violations] == ["must_create"]
