"""Deletion, undeletion and the purge of models and adapters."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import errors
from controlplane.store.store import Store
from tests.contract.resource_calls import (
    entry_names,
    get_adapter,
    get_model,
    list_models,
    rollback_model,
    undelete_adapter,
    undelete_model,
    update_model,
)
from tests.registry_world import NO_CONTEXT, START, World, spec


async def test_a_deleted_resource_is_in_no_snapshot_and_can_be_read(world: World) -> None:
    await world.register_model("m")
    await world.register_model("n")
    await world.delete_model("m")
    assert await entry_names(world) == ["models/n"]
    model = await get_model(world)
    retention = timedelta(days=30)
    assert model.purge_time.ToDatetime() - model.delete_time.ToDatetime() == retention
    assert await list_models(world) == ["models/n"]
    assert await list_models(world, show_deleted=True) == ["models/m", "models/n"]
    for call in (world.delete_model("m"), update_model(world, "labels"), rollback_model(world, 1)):
        with pytest.raises(errors.NotFound):
            await call


async def test_a_deleted_id_stays_taken_until_the_purge_and_the_error_names_undelete(world: World) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")
    await world.delete_adapter("m", "a")
    with pytest.raises(errors.AlreadyExists) as caught:
        await world.register_adapter("m", "a")
    assert caught.value.reason == errors.Reason.STILL_DELETED
    assert "undelete" in caught.value.message
    await world.delete_model("m")
    with pytest.raises(errors.AlreadyExists) as caught:
        await world.register_model("m")
    assert caught.value.reason == errors.Reason.STILL_DELETED


async def test_undeleting_a_model_undeletes_the_adapters_deleted_with_it(world: World) -> None:
    first = await world.register_model("m")
    for adapter in ("a", "b", "c"):
        await world.register_adapter("m", adapter)
    await world.delete_adapter("m", "a")
    await world.delete_model("m", force=True)
    assert await entry_names(world) == []
    before = await world.revision()
    answer = await undelete_model(world)
    assert (answer.adapter_count, answer.catalog_revision) == (2, before + 1)
    assert answer.model.uid == first.model.uid
    assert not answer.model.HasField("delete_time")
    assert not answer.model.HasField("purge_time")
    assert await entry_names(world) == ["models/m", "models/m/adapters/b", "models/m/adapters/c"]
    assert (await undelete_adapter(world)).adapter.served_name == "m:a"
    await world.check_digest(await world.revision())


async def test_an_undelete_whose_names_are_taken_is_refused_as_a_whole(world: World) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")
    await world.delete_model("m", force=True)
    await world.register_model("n", served_name="m:a")
    before = await world.revision()
    with pytest.raises(errors.AlreadyExists) as caught:
        await undelete_model(world)
    assert caught.value.metadata == {"servedName": "m:a", "holder": "models/n"}
    assert (await world.revision(), await entry_names(world)) == (before, ["models/n"])
    await world.register_model("n")
    await undelete_model(world)
    assert await entry_names(world) == ["models/m", "models/m/adapters/a", "models/n"]


async def test_an_adapter_of_a_deleted_model_is_undeleted_after_it(world: World) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")
    await world.delete_model("m", force=True)
    with pytest.raises(errors.FailedPrecondition) as caught:
        await undelete_adapter(world)
    assert caught.value.reason == errors.Reason.BASE_MODEL_DELETED


async def test_a_live_resource_cannot_be_undeleted(world: World) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")
    for call in (undelete_model(world), undelete_adapter(world)):
        with pytest.raises(errors.AlreadyExists) as caught:
            await call
        assert caught.value.reason == errors.Reason.NOT_DELETED


async def test_an_adapter_that_does_not_fit_its_base_any_more_stays_deleted(world: World) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")
    await world.delete_adapter("m", "a")
    request = pb.RegisterModelRequest(model_id="m", spec=spec())
    request.spec.ClearField("lora")
    await world.registry.RegisterModel(request, NO_CONTEXT)
    with pytest.raises(errors.FailedPrecondition) as caught:
        await undelete_adapter(world)
    assert caught.value.reason == errors.Reason.MODEL_TAKES_NO_ADAPTERS


async def test_a_purge_is_exact_for_readers_and_frees_the_id(store_url: str, tmp_path: Path) -> None:
    now = START

    def clock() -> datetime:
        return now

    retention = timedelta(hours=1)
    async with Store.open(store_url, clock=clock, deleted_retention=retention) as store:
        world = World(store, tmp_path)
        first = await world.register_model("m")
        await world.register_adapter("m", "a")
        await world.delete_model("m", force=True)
        now = START + retention - timedelta(microseconds=1)
        assert (await get_model(world)).HasField("purge_time")
        assert await store.purge_expired() == 0
        now = START + retention
        for call in (get_model(world), get_adapter(world), undelete_model(world), undelete_adapter(world)):
            with pytest.raises(errors.NotFound):
                await call
        assert await list_models(world, show_deleted=True) == []
        again = await world.register_model("m", must_create=True)
        assert (again.model.revision.number, again.model.uid != first.model.uid) == (1, True)
        with pytest.raises(errors.NotFound):
            await get_adapter(world)
        world.verifier.close()


async def test_the_background_purge_leaves_nothing_and_makes_no_revision(store_url: str, tmp_path: Path) -> None:
    now = START

    def clock() -> datetime:
        return now

    async with Store.open(store_url, clock=clock, deleted_retention=timedelta(hours=1)) as store:
        world = World(store, tmp_path)
        for model in ("m", "n", "o"):
            await world.register_model(model)
        await world.register_adapter("m", "a")
        await world.register_adapter("o", "a")
        await world.delete_model("m", force=True)
        await world.delete_model("n")
        await world.delete_adapter("o", "a")
        before = await world.revision()
        now = START + timedelta(hours=1)
        assert [await store.purge_expired(2) for _ in range(4)] == [2, 2, 0, 0]
        assert await world.revision() == before
        assert await entry_names(world) == ["models/o"]
        world.verifier.close()


async def test_a_repeated_undelete_gets_the_same_answer(world: World) -> None:
    await world.register_model("m")
    await world.delete_model("m")
    request_id = str(uuid.uuid4())
    first = await undelete_model(world, request_id=request_id)
    assert await undelete_model(world, request_id=request_id) == first
