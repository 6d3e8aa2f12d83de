"""UpdateModel and UpdateAdapter: masks, and what an update leaves as it is."""

from __future__ import annotations

import pytest

from broadsheet.v1 import adapter_pb2, model_pb2
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import errors
from tests.contract.resource_calls import card, get_model, update_adapter, update_model
from tests.registry_world import NO_CONTEXT, World, spec


async def test_an_update_changes_only_what_its_mask_names(world: World) -> None:
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


async def test_an_unset_scaling_field_in_the_mask_gets_its_default(world: World) -> None:
    await world.register_model("m", spec(scaling={"maxReplicas": 5, "minReplicas": 2, "upscaleDelay": "7s"}))
    answer = await update_model(world, "revision.spec.scaling.upscale_delay")
    assert answer.model.revision.spec.scaling.upscale_delay.seconds == 10
    assert answer.model.revision.spec.scaling.max_replicas == 5
    whole = await update_model(world, "revision.spec.scaling")
    assert whole.model.revision.spec.scaling.max_replicas == 1


async def test_an_update_without_a_mask_changes_every_field_that_is_set(world: World) -> None:
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
async def test_a_mask_path_that_cannot_be_updated_is_refused_with_the_valid_ones(world: World, path: str) -> None:
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


async def test_an_invalid_combination_of_valid_fields_is_refused_with_its_path(world: World) -> None:
    await world.register_model("m")
    revision = model_pb2.ModelRevision(spec=model_pb2.ModelSpec(scaling=model_pb2.Scaling(min_replicas=4)))
    with pytest.raises(errors.InvalidArgument) as caught:
        await update_model(world, "revision.spec.scaling.min_replicas", revision=revision)
    assert "model.revision.spec.scaling" in {violation.field for violation in caught.value.violations}
    assert await world.revision() == 1


async def test_an_adapter_is_updated_in_the_same_way(world: World) -> None:
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
