"""RollbackCatalog: an old content in a new revision, whatever happened in between."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf import json_format

from broadsheet.v1 import api_key_pb2, rollback_pb2, route_pb2, snapshot_pb2
from controlplane import errors
from controlplane.catalog import audit, domain
from tests.adapter_directories import write_adapter
from tests.registry_world import NO_CONTEXT, World, spec


async def roll_back(world: World, to_revision: int, **fields: Any) -> rollback_pb2.RollbackCatalogResponse:
    request = rollback_pb2.RollbackCatalogRequest(to_revision=to_revision, **fields)
    return await world.snapshots.RollbackCatalog(request, NO_CONTEXT)


async def set_route(world: World, route_id: str, *resources: str, served_name: str = "") -> None:
    targets = [route_pb2.RouteTarget(resource=resource) for resource in resources]
    request = route_pb2.SetRouteRequest(
        route_id=route_id, served_name=served_name, spec=route_pb2.RouteSpec(targets=targets)
    )
    await world.registry.SetRoute(request, NO_CONTEXT)


async def delete_route(world: World, route_id: str) -> None:
    await world.registry.DeleteRoute(route_pb2.DeleteRouteRequest(name=f"routes/{route_id}"), NO_CONTEXT)


def content(entries: Any) -> dict[str, dict[str, Any]]:
    """The contents of entries, without times and revision numbers."""
    shown = {}
    for entry in entries:
        message = {
            kind.DESCRIPTOR.full_name: kind
            for kind in (snapshot_pb2.ModelEntry, snapshot_pb2.AdapterEntry, snapshot_pb2.RouteEntry)
        }[entry.type].FromString(entry.blob)
        fields = json_format.MessageToDict(message)
        for name in ("uid", "createTime"):
            fields.pop(name, None)
        for name in ("name", "number", "createTime", "catalogRevision"):
            fields["revision"].pop(name, None)
        shown[entry.name] = fields
    return shown


async def current(world: World) -> dict[str, dict[str, Any]]:
    return content(await world.entries())


async def test_a_rollback_restores_models_adapters_and_routes(world: World) -> None:
    await world.register_model("a", labels={"team": "x"})
    await world.register_model("b", served_name="bee")
    await world.register_adapter("a", "x")
    await set_route(world, "r", "models/a", "models/a/adapters/x")
    before, revision = await current(world), await world.revision()
    await world.register_model("a", spec(scaling={"maxReplicas": 7}), served_name="new")
    await set_route(world, "r", "models/b")
    await set_route(world, "s", "models/b")
    await world.delete_adapter("a", "x")
    await world.register_model("c")
    published = len(world.published)
    answer = await roll_back(world, revision)
    assert (answer.catalog_revision, answer.change_count) == (revision + 6, 5)
    assert await current(world) == before
    assert len(world.published) == published + 1
    await world.check_digest(answer.catalog_revision)
    # Numbers go on, so no revision number changes its meaning.
    assert (await world.store.models.get("a")).revision.number == 3
    assert (await world.register_model("a", spec(scaling={"maxReplicas": 9}))).model.revision.number == 4


async def test_served_names_return_to_their_old_resources(world: World) -> None:
    await world.register_model("a", served_name="one")
    await world.register_model("b", served_name="two")
    await world.register_model("c", served_name="three")
    before = await current(world)
    await world.register_model("a", served_name="free")
    await world.register_model("b", served_name="one")
    await world.register_model("a", served_name="two")
    await world.delete_model("c")
    await world.register_model("d", served_name="three")
    await roll_back(world, 3)
    assert await current(world) == before
    for name, holder in (("one", "models/a"), ("two", "models/b"), ("three", "models/c")):
        with pytest.raises(errors.AlreadyExists) as caught:
            await world.register_model("x", served_name=name)
        assert caught.value.metadata["holder"] == holder


async def test_any_history_can_be_rolled_back(world: World) -> None:
    choices = random.Random(7)
    directories = [write_adapter(world.directory / f"lora{fill}", fill=bytes([fill])) for fill in range(2)]
    snapshots = {0: await current(world)}

    async def step() -> None:
        model, kind = choices.choice("abc"), choices.randrange(7)
        if kind <= 1:
            names = choices.choice(["", "one", "two", "three"])
            await world.register_model(model, spec(scaling={"minReplicas": choices.randrange(3)}), served_name=names)
        elif kind == 2:
            await world.register_adapter(model, choices.choice("xy"), choices.choice(directories))
        elif kind == 3:
            await world.delete_model(model, force=True)
        elif kind == 4:
            await set_route(world, choices.choice("rs"), f"models/{model}", served_name=choices.choice(["", "one"]))
        elif kind == 5:
            await delete_route(world, choices.choice("rs"))
        else:
            await roll_back(world, choices.choice(list(snapshots)))

    for _ in range(120):
        try:
            await step()
        except (errors.NotFound, errors.AlreadyExists, errors.FailedPrecondition, errors.InvalidArgument):
            # The registry may refuse a step. Whatever it accepts must be reversible.
            continue
        snapshots.setdefault(await world.revision(), await current(world))
    for revision in choices.sample(list(snapshots), 10):
        await roll_back(world, revision)
        assert await current(world) == snapshots[revision]
        await world.check_digest(await world.revision())


async def test_a_rollback_to_the_current_content_writes_nothing(world: World) -> None:
    await world.register_model("a", labels={"v": "1"})
    await world.register_model("a", labels={"v": "2"})
    await world.register_model("a", labels={"v": "1"})
    assert [(await roll_back(world, revision)).change_count for revision in (1, 3)] == [0, 0]
    assert await world.revision() == 3
    # The served name that was released in between is taken.
    with pytest.raises(errors.AlreadyExists):
        await world.register_model("b", served_name="a")


async def test_validate_only_and_an_unexpected_revision_write_nothing(world: World) -> None:
    await world.register_model("a")
    await world.register_model("b")
    answer = await roll_back(world, 1, validate_only=True, expected_revision=2)
    assert (answer.catalog_revision, answer.change_count) == (3, 1)
    with pytest.raises(errors.Aborted) as caught:
        await roll_back(world, 1, expected_revision=1)
    assert caught.value.reason == errors.Reason.CONCURRENT_CHANGE
    for revision in (3, 1 << 62):
        with pytest.raises(errors.NotFound):
            await roll_back(world, revision)
    assert await world.revision() == 2


async def test_a_repeated_request_rolls_back_once(world: World) -> None:
    await world.register_model("a")
    request_id = "7c0ee0c2-12d4-4c4b-8b3f-9a6f8a4f2a11"
    first = await roll_back(world, 0, request_id=request_id)
    await world.register_model("b")
    assert await roll_back(world, 0, request_id=request_id) == first
    assert [entry.name for entry in await world.entries()] == ["models/b"]


async def test_a_rollback_that_pins_a_deleted_revision_is_refused(world: World) -> None:
    await world.register_model("a")
    await world.register_model("a", spec(scaling={"maxReplicas": 2}))
    await set_route(world, "r", "models/a/revisions/1")
    pinned, revision = await world.entries(), await world.revision()
    await delete_route(world, "r")
    await roll_back(world, revision)

    def names(entries: Any) -> list[str]:
        return [entry.name for entry in entries]

    assert names(await world.entries()) == names(pinned)
    await delete_route(world, "r")
    await world.delete_model("a")
    before: list[domain.Entry] = list(await world.entries())
    with pytest.raises(errors.FailedPrecondition) as caught:
        await roll_back(world, revision)
    assert caught.value.reason == errors.Reason.PINNED_REVISION_GONE
    assert list(await world.entries()) == before


async def test_the_audit_event_of_a_rollback_has_its_changes(world: World) -> None:
    await world.register_model("a")
    await world.register_model("b")
    await roll_back(world, 0)
    (event,) = await world.store.audit.list(audit.EventFilter(), before=None, limit=1)
    assert (event.method, event.resource, event.change_count) == ("RollbackCatalog", "snapshots/0", 2)


async def test_a_revoked_key_stays_revoked_and_a_new_one_valid(world: World) -> None:
    async def create(api_key_id: str) -> None:
        limits = api_key_pb2.ApiKeyLimits(allowed_served_names=["*"])
        request = api_key_pb2.CreateApiKeyRequest(api_key_id=api_key_id, limits=limits)
        await world.registry.CreateApiKey(request, NO_CONTEXT)

    def keys(entries: Any) -> dict[str, bytes]:
        return {entry.name: entry.blob for entry in entries if entry.name.startswith("apiKeys/")}

    await create("old")
    await world.register_model("a")
    before = await world.revision()
    await world.registry.RevokeApiKey(api_key_pb2.RevokeApiKeyRequest(name="apiKeys/old"), NO_CONTEXT)
    await create("new")
    await world.delete_model("a")
    now = keys(await world.entries())
    assert (await roll_back(world, before)).change_count == 1
    entries = await world.entries()
    assert keys(entries) == now
    assert api_key_pb2.ApiKeyEntry.FromString(now["apiKeys/old"]).revoked
    assert "models/a" in {entry.name for entry in entries}
    await world.check_digest(await world.revision())
