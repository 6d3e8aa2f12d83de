"""Models and adapters with the semantics of Google's AIPs: etags, masks, rollback, deletion and its
way back."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import field_mask_pb2

from broadsheet.v1 import adapter_pb2, model_pb2
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import errors
from controlplane.store.store import Store
from tests.adapter_directories import write_adapter
from tests.registry_world import NO_CONTEXT, START, World, spec


async def get_model(world: World, model_id: str = "m") -> model_pb2.Model:
    return (await world.registry.GetModel(pb.GetModelRequest(name=f"models/{model_id}"), NO_CONTEXT)).model


async def get_adapter(world: World, name: str = "models/m/adapters/a") -> adapter_pb2.Adapter:
    return (await world.registry.GetAdapter(pb.GetAdapterRequest(name=name), NO_CONTEXT)).adapter


async def update_model(world: World, *paths: str, etag: str = "", **fields: Any) -> pb.UpdateModelResponse:
    model = model_pb2.Model(name="models/m", etag=etag, **fields)
    request = pb.UpdateModelRequest(model=model, update_mask=field_mask_pb2.FieldMask(paths=paths))
    return await world.registry.UpdateModel(request, NO_CONTEXT)


async def update_adapter(world: World, *paths: str, etag: str = "", **fields: Any) -> pb.UpdateAdapterResponse:
    adapter = adapter_pb2.Adapter(name="models/m/adapters/a", etag=etag, **fields)
    request = pb.UpdateAdapterRequest(adapter=adapter, update_mask=field_mask_pb2.FieldMask(paths=paths))
    return await world.registry.UpdateAdapter(request, NO_CONTEXT)


async def rollback_model(world: World, number: int, **fields: Any) -> pb.RollbackModelResponse:
    request = pb.RollbackModelRequest(name="models/m", revision_number=number, **fields)
    return await world.registry.RollbackModel(request, NO_CONTEXT)


async def rollback_adapter(world: World, number: int, **fields: Any) -> pb.RollbackAdapterResponse:
    request = pb.RollbackAdapterRequest(name="models/m/adapters/a", revision_number=number, **fields)
    return await world.registry.RollbackAdapter(request, NO_CONTEXT)


async def undelete_model(world: World, **fields: Any) -> pb.UndeleteModelResponse:
    return await world.registry.UndeleteModel(pb.UndeleteModelRequest(name="models/m", **fields), NO_CONTEXT)


async def undelete_adapter(world: World, name: str = "models/m/adapters/a") -> pb.UndeleteAdapterResponse:
    return await world.registry.UndeleteAdapter(pb.UndeleteAdapterRequest(name=name), NO_CONTEXT)


async def list_models(world: World, **fields: Any) -> list[str]:
    answer = await world.registry.ListModels(pb.ListModelsRequest(**fields), NO_CONTEXT)
    return [model.name for model in answer.models]


async def entry_names(world: World) -> list[str]:
    return [entry.name for entry in await world.entries()]


def card(**fields: Any) -> model_pb2.ModelRevision:
    return model_pb2.ModelRevision(card=model_pb2.ModelCard(**fields))


# --- etags and must_create ---


async def test_an_etag_stands_for_what_a_writer_sees(world: World) -> None:
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
async def test_another_etag_aborts_naming_both(world: World, method: str) -> None:
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
async def test_another_etag_aborts_for_adapters_too(world: World, method: str) -> None:
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


async def test_an_etag_of_something_that_is_not_there_aborts(world: World) -> None:
    with pytest.raises(errors.Aborted):
        await world.register_model("m", etag='W/"0"')


async def test_of_writers_with_the_same_etag_one_wins(world: World) -> None:
    etag = (await world.register_model("m")).model.etag
    writers = (world.register_model("m", labels={"writer": str(index)}, etag=etag) for index in range(8))
    outcomes = await asyncio.gather(*writers, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Aborted"] * 7 + ["RegisterModelResponse"]
    assert await world.revision() == 2


async def test_must_create_refuses_what_exists_even_unchanged(world: World) -> None:
    await world.register_model("m", must_create=True)
    await world.register_adapter("m", "a", must_create=True)
    for again in (world.register_model("m", must_create=True), world.register_adapter("m", "a", must_create=True)):
        with pytest.raises(errors.AlreadyExists) as caught:
            await again
        assert caught.value.reason == errors.Reason.ALREADY_REGISTERED
        assert [violation.field for violation in caught.value.violations] == ["must_create"]


# --- updates ---


async def test_an_update_changes_what_its_mask_names_and_nothing_else(world: World) -> None:
    await world.register_model(
        "m",
        spec(scaling={"maxReplicas": 3}),
        labels={"team": "a"},
        card=model_pb2.ModelCard(description="old", tags=["t"], license="MIT"),
    )
    answer = await update_model(
        world,
        "revision.card.description",
        "revision.card.tags",
        revision=card(description="new", license="not named"),
        served_name="not named",
    )
    model = answer.model
    assert (answer.created, model.revision.number, model.served_name) == (True, 2, "m")
    assert model.revision.card == model_pb2.ModelCard(description="new", license="MIT")
    assert model.labels == {"team": "a"}
    assert model.revision.spec.scaling.max_replicas == 3
    (entry,) = await world.entries()
    assert b"new" in entry.blob


async def test_an_update_of_names_and_labels_makes_no_model_revision(world: World) -> None:
    await world.register_model("m", labels={"team": "a"})
    answer = await update_model(world, "served_name", "labels", served_name="n")
    assert (answer.created, answer.catalog_revision, answer.model.revision.number) == (False, 2, 1)
    assert (answer.model.served_name, dict(answer.model.labels)) == ("n", {})
    assert (await update_model(world, "served_name")).model.served_name == "m"
    same = await update_model(world, "served_name")
    assert (same.created, same.catalog_revision) == (False, 3)


async def test_a_named_part_of_the_scaling_that_is_unset_gets_its_default(world: World) -> None:
    await world.register_model("m", spec(scaling={"maxReplicas": 5, "minReplicas": 2, "upscaleDelay": "7s"}))
    answer = await update_model(world, "revision.spec.scaling.upscale_delay")
    assert answer.model.revision.spec.scaling.upscale_delay.seconds == 10
    assert answer.model.revision.spec.scaling.max_replicas == 5
    whole = await update_model(world, "revision.spec.scaling")
    assert whole.model.revision.spec.scaling.max_replicas == 1


async def test_without_a_mask_every_field_that_is_set_is_meant(world: World) -> None:
    await world.register_model("m", labels={"team": "a"})
    answer = await update_model(world, revision=card(description="new"), served_name="n")
    assert (answer.model.served_name, answer.model.revision.card.description) == ("n", "new")
    assert answer.model.labels == {"team": "a"}
    read = await get_model(world)
    read.ClearField("revision")
    read.labels["team"] = "b"
    written = await world.registry.UpdateModel(pb.UpdateModelRequest(model=read), NO_CONTEXT)
    assert written.model.labels == {"team": "b"}


@pytest.mark.parametrize(
    "path",
    ["*", "name", "uid", "revision", "revision.spec", "revision.spec.source", "revision.card.nothing", "labels.a"],
)
async def test_a_path_that_no_update_changes_is_refused_naming_those_that_do(world: World, path: str) -> None:
    await world.register_model("m")
    with pytest.raises(errors.InvalidArgument) as caught:
        await update_model(world, "labels", path)
    assert caught.value.reason == errors.Reason.INVALID_UPDATE_MASK
    (violation,) = caught.value.violations
    assert violation.field == "update_mask"
    for allowed in ("served_name", "labels", "revision.card", "revision.spec.scaling", "revision.spec.admission"):
        assert allowed in violation.description
    assert path in violation.description


async def test_a_whole_model_sent_back_without_a_mask_is_refused_for_its_engine(world: World) -> None:
    await world.register_model("m")
    with pytest.raises(errors.InvalidArgument) as caught:
        await world.registry.UpdateModel(pb.UpdateModelRequest(model=await get_model(world)), NO_CONTEXT)
    assert any("revision.spec.engine" in violation.description for violation in caught.value.violations)


async def test_an_update_that_names_nothing_is_refused(world: World) -> None:
    await world.register_model("m")
    with pytest.raises(errors.InvalidArgument) as caught:
        await update_model(world)
    assert caught.value.reason == errors.Reason.INVALID_UPDATE_MASK


async def test_what_is_right_in_parts_and_wrong_together_is_refused_with_its_path(world: World) -> None:
    await world.register_model("m")
    revision = model_pb2.ModelRevision(spec=model_pb2.ModelSpec(scaling=model_pb2.Scaling(min_replicas=4)))
    with pytest.raises(errors.InvalidArgument) as caught:
        await update_model(world, "revision.spec.scaling.min_replicas", revision=revision)
    assert "model.revision.spec.scaling" in {violation.field for violation in caught.value.violations}
    assert await world.revision() == 1


async def test_an_adapter_is_updated_alike(world: World) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a", card=adapter_pb2.AdapterCard(description="old", license="MIT"))
    revision = adapter_pb2.AdapterRevision(card=adapter_pb2.AdapterCard(description="new"))
    answer = await update_adapter(world, "revision.card.description", "labels", labels={"a": "b"}, revision=revision)
    adapter = answer.adapter
    assert (answer.created, adapter.revision.number, dict(adapter.labels)) == (True, 2, {"a": "b"})
    assert adapter.revision.card == adapter_pb2.AdapterCard(description="new", license="MIT")
    assert (await update_adapter(world, "served_name", served_name="x")).adapter.served_name == "x"
    assert (await update_adapter(world, "served_name")).adapter.served_name == "m:a"
    with pytest.raises(errors.InvalidArgument) as caught:
        await update_adapter(world, "revision.source")
    assert caught.value.reason == errors.Reason.INVALID_UPDATE_MASK


# --- rollback ---


async def test_a_rollback_is_a_new_revision_with_the_old_content(world: World) -> None:
    first = await world.register_model("m", card=model_pb2.ModelCard(description="one"))
    await world.register_model("m", spec(scaling={"minReplicas": 1}), labels={"a": "b"}, served_name="n")
    answer = await rollback_model(world, 1)
    assert (answer.created, answer.catalog_revision, answer.model.revision.number) == (True, 3, 3)
    assert answer.model.revision.spec == first.model.revision.spec
    assert answer.model.revision.card == first.model.revision.card
    assert (answer.model.served_name, dict(answer.model.labels)) == ("n", {"a": "b"})
    again = await rollback_model(world, 1)
    assert (again.created, again.catalog_revision) == (False, 3)


@pytest.mark.parametrize("number", [3, 2**40])
async def test_a_rollback_to_a_revision_that_is_not_there_names_what_is(world: World, number: int) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")
    for call in (rollback_model(world, number), rollback_adapter(world, number)):
        with pytest.raises(errors.NotFound) as caught:
            await call
        assert caught.value.reason == errors.Reason.REVISION_NOT_FOUND
        assert caught.value.metadata["newestRevisionNumber"] == "1"


async def test_a_rollback_that_would_orphan_adapters_is_refused(world: World) -> None:
    await world.register_model("m", spec(lora={"maxRank": 1}))
    await world.register_model("m", spec(lora={"maxRank": 16}))
    await world.register_adapter("m", "a")
    with pytest.raises(errors.FailedPrecondition) as caught:
        await rollback_model(world, 1)
    assert caught.value.reason == errors.Reason.ADAPTERS_WOULD_NOT_FIT
    assert "models/m/adapters/a" in caught.value.message


async def test_an_adapter_rolls_back_to_files_that_are_still_the_same(world: World, tmp_path: Path) -> None:
    await world.register_model("m")
    one, two = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "two", fill=b"\1")
    first = await world.register_adapter("m", "a", one)
    await world.register_adapter("m", "a", two)
    answer = await rollback_adapter(world, 1)
    assert (answer.created, answer.adapter.revision.number) == (True, 3)
    assert answer.adapter.revision.weights == first.adapter.revision.weights
    request = pb.ListAdapterRevisionsRequest(parent="models/m/adapters/a", page_size=2)
    page = await world.registry.ListAdapterRevisions(request, NO_CONTEXT)
    request.page_token = page.next_page_token
    rest = await world.registry.ListAdapterRevisions(request, NO_CONTEXT)
    assert [revision.number for revision in (*page.revisions, *rest.revisions)] == [3, 2, 1]
    assert rest.next_page_token == ""
    write_adapter(two, fill=b"\2")
    with pytest.raises(errors.FailedPrecondition) as caught:
        await rollback_adapter(world, 2)
    assert caught.value.reason == errors.Reason.ADAPTER_FILES_CHANGED


# --- deletion and its way back ---


async def test_what_is_deleted_is_in_no_snapshot_and_can_still_be_read(world: World) -> None:
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


async def test_an_id_stays_taken_until_the_purge_and_says_to_undelete(world: World) -> None:
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


async def test_an_undeleted_model_brings_back_the_adapters_that_went_with_it(world: World) -> None:
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


async def test_what_is_not_deleted_cannot_be_undeleted(world: World) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")
    for call in (undelete_model(world), undelete_adapter(world)):
        with pytest.raises(errors.AlreadyExists) as caught:
            await call
        assert caught.value.reason == errors.Reason.NOT_DELETED


async def test_an_adapter_that_its_base_outgrew_while_deleted_stays_deleted(world: World) -> None:
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


async def test_a_repeated_undelete_is_answered_alike(world: World) -> None:
    await world.register_model("m")
    await world.delete_model("m")
    request_id = str(uuid.uuid4())
    first = await undelete_model(world, request_id=request_id)
    assert await undelete_model(world, request_id=request_id) == first
