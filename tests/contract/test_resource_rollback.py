"""RollbackModel and RollbackAdapter: an old content as a new revision."""

from __future__ import annotations

from pathlib import Path

import pytest

from broadsheet.v1 import model_pb2
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import errors
from tests.adapter_directories import write_adapter
from tests.contract.resource_calls import rollback_adapter, rollback_model
from tests.registry_world import NO_CONTEXT, World, spec


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
async def test_a_rollback_to_an_unknown_revision_names_the_newest(world: World, number: int) -> None:
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
    item, two = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "two", fill=b"\1")
    first = await world.register_adapter("m", "a", item)
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
