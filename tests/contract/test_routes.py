"""Routes: their targets, pinned revisions, deletions, and entries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from broadsheet.v1 import registry_service_pb2, route_pb2, snapshot_pb2
from controlplane import errors
from protocol.validation import violations_of
from tests.adapter_directories import write_adapter
from tests.registry_world import NO_CONTEXT, World, spec


def route_spec(*targets: str | tuple[str, int], fallbacks: tuple[str, ...] = (), **fields: Any) -> route_pb2.RouteSpec:
    """A spec with these targets. Each is a resource, or a resource and its weight."""
    pairs = [target if isinstance(target, tuple) else (target, None) for target in targets]
    made = json_format.ParseDict(fields, route_pb2.RouteSpec())
    for resource, weight in pairs:
        made.targets.add(resource=resource, weight=weight)
    for resource in fallbacks:
        made.fallbacks.add(resource=resource)
    assert violations_of(made) == ()
    return made


async def set_route(
    world: World, route_id: str, made: route_pb2.RouteSpec, **fields: Any
) -> route_pb2.SetRouteResponse:
    request = route_pb2.SetRouteRequest(route_id=route_id, spec=made, **fields)
    return await world.registry.SetRoute(request, NO_CONTEXT)


async def delete_route(world: World, route_id: str, **fields: Any) -> int:
    request = route_pb2.DeleteRouteRequest(name=f"routes/{route_id}", **fields)
    return (await world.registry.DeleteRoute(request, NO_CONTEXT)).catalog_revision


async def get_route(world: World, route_id: str) -> route_pb2.Route:
    return (await world.registry.GetRoute(route_pb2.GetRouteRequest(name=f"routes/{route_id}"), NO_CONTEXT)).route


async def types(world: World) -> Mapping[str, str]:
    """Type of each entry of the newest snapshot, by name."""
    return {entry.name: entry.type.removeprefix("broadsheet.v1.") for entry in await world.entries()}


async def test_route_is_an_entry_with_its_defaults_filled_in(world: World) -> None:
    await world.register_model("a")
    await world.register_model("b")
    made = route_spec(("models/a", 9), "models/b", fallbacks=("models/b",), sticky={"header": "x-user"})
    answer = await set_route(world, "chat", made, served_name="org/Chat", labels={"team": "x"})
    assert (answer.catalog_revision, answer.created, answer.route.revision.number) == (3, True, 1)
    assert await types(world) == {"models/a": "ModelEntry", "models/b": "ModelEntry", "routes/chat": "RouteEntry"}
    entry = snapshot_pb2.RouteEntry.FromString((await world.entries())[-1].blob)
    assert (entry.name, entry.served_name, dict(entry.labels)) == ("routes/chat", "org/Chat", {"team": "x"})
    assert [(target.resource, target.weight) for target in entry.revision.spec.targets] == [
        ("models/a", 9),
        ("models/b", 1),
    ]
    assert list(entry.revision.spec.fallbacks[0].conditions) == [
        route_pb2.RouteFallback.CONDITION_UNAVAILABLE,
        route_pb2.RouteFallback.CONDITION_QUEUE_FULL,
    ]
    assert await get_route(world, "chat") == answer.route
    await world.check_digest(3)


async def test_the_same_route_with_explicit_defaults_writes_nothing(world: World) -> None:
    await world.register_model("a")
    first = await set_route(world, "r", route_spec("models/a"))
    again = await set_route(world, "r", route_spec(("models/a", 1)), served_name="r")
    assert (again.created, again.catalog_revision) == (False, 2)
    assert again.route == first.route
    assert await world.revision() == 2


async def test_validate_only_checks_everything_and_writes_nothing(world: World) -> None:
    await world.register_model("a")
    answer = await set_route(world, "r", route_spec("models/a"), validate_only=True)
    assert (answer.created, answer.catalog_revision) == (True, 2)
    with pytest.raises(errors.InvalidArgument):
        await set_route(world, "r", route_spec("models/b"), validate_only=True)
    assert await world.revision() == 1


async def test_each_spec_is_kept_as_a_revision_and_labels_make_none(world: World) -> None:
    await world.register_model("a")
    await world.register_model("b")
    await set_route(world, "r", route_spec("models/a"))
    await set_route(world, "r", route_spec("models/b"))
    labelled = await set_route(world, "r", route_spec("models/b"), labels={"x": "y"})
    assert (labelled.created, labelled.catalog_revision) == (False, 5)
    request = route_pb2.ListRouteRevisionsRequest(parent="routes/r", page_size=1)
    seen = []
    while True:
        page = await world.registry.ListRouteRevisions(request, NO_CONTEXT)
        seen += [
            (revision.number, revision.spec.targets[0].resource, revision.catalog_revision)
            for revision in page.revisions
        ]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [(2, "models/b", 4), (1, "models/a", 3)]


async def test_routes_are_listed_by_id_over_pages(world: World) -> None:
    await world.register_model("a")
    for route_id in ("z", "m", "b"):
        await set_route(world, route_id, route_spec("models/a"))
    first = await world.registry.ListRoutes(route_pb2.ListRoutesRequest(page_size=2), NO_CONTEXT)
    rest = await world.registry.ListRoutes(
        route_pb2.ListRoutesRequest(page_size=2, page_token=first.next_page_token), NO_CONTEXT
    )
    assert [route.name for route in (*first.routes, *rest.routes)] == ["routes/b", "routes/m", "routes/z"]
    assert rest.next_page_token == ""


@pytest.mark.parametrize(
    "missing",
    [
        "models/none",
        "models/a/revisions/2",
        "models/none/revisions/1",
        "models/a/adapters/none",
        "models/a/adapters/x/revisions/2",
        "models/none/adapters/x",
    ],
)
async def test_a_reference_to_an_unknown_resource_is_refused_with_its_field(world: World, missing: str) -> None:
    await world.register_model("a")
    await world.register_adapter("a", "x")
    with pytest.raises(errors.InvalidArgument) as caught:
        await set_route(world, "r", route_spec("models/a", missing))
    assert caught.value.reason is errors.Reason.ROUTE_TARGET_NOT_FOUND
    assert caught.value.violations[0].field == "spec.targets[1].resource"
    with pytest.raises(errors.InvalidArgument) as caught:
        await set_route(world, "r", route_spec("models/a", fallbacks=(missing,)))
    assert caught.value.violations[0].field == "spec.fallbacks[0].resource"
    assert await world.revision() == 2


@pytest.mark.parametrize("pin", ["", "/revisions/1"])
async def test_a_deleted_resource_cannot_be_a_target(world: World, pin: str) -> None:
    await world.register_model("a")
    await world.register_adapter("a", "x")
    await world.register_model("b")
    await world.delete_adapter("a", "x")
    await world.delete_model("b")
    for resource in ("models/a/adapters/x", "models/b"):
        with pytest.raises(errors.InvalidArgument):
            await set_route(world, "r", route_spec(f"{resource}{pin}"))
    request = registry_service_pb2.UndeleteAdapterRequest(name="models/a/adapters/x")
    await world.registry.UndeleteAdapter(request, NO_CONTEXT)
    await set_route(world, "r", route_spec(f"models/a/adapters/x{pin}"))


async def test_an_unknown_route_is_not_found(world: World) -> None:
    for call in (get_route(world, "r"), delete_route(world, "r")):
        with pytest.raises(errors.NotFound) as caught:
            await call
        assert caught.value.reason is errors.Reason.ROUTE_NOT_FOUND
    with pytest.raises(errors.NotFound):
        await world.registry.ListRouteRevisions(route_pb2.ListRouteRevisionsRequest(parent="routes/r"), NO_CONTEXT)


async def test_served_names_of_models_adapters_and_routes_are_one_namespace(world: World) -> None:
    await world.register_model("a")
    await world.register_adapter("a", "x")
    await set_route(world, "r", route_spec("models/a"), served_name="chat")
    for taken in ("a", "a:x"):
        with pytest.raises(errors.AlreadyExists):
            await set_route(world, "other", route_spec("models/a"), served_name=taken)
    with pytest.raises(errors.AlreadyExists) as caught:
        await world.register_model("b", served_name="chat")
    assert caught.value.metadata["holder"] == "routes/r"
    await delete_route(world, "r")
    await world.register_model("b", served_name="chat")


async def test_pinned_revision_is_an_entry_exactly_while_a_route_pins_it(world: World) -> None:
    await world.register_model("a", spec(scaling={"minReplicas": 1}))
    await world.register_model("a", spec(scaling={"minReplicas": 2}))
    await set_route(world, "r", route_spec("models/a/revisions/1"))
    await set_route(world, "s", route_spec("models/a", fallbacks=("models/a/revisions/1",)))
    pinned = next(entry for entry in await world.entries() if entry.name == "models/a/revisions/1")
    entry = snapshot_pb2.ModelRevisionEntry.FromString(pinned.blob)
    assert (entry.model, entry.revision.number, entry.revision.spec.scaling.min_replicas) == ("models/a", 1, 1)
    assert entry.model_uid
    await set_route(world, "r", route_spec("models/a"))
    assert "models/a/revisions/1" in await types(world)
    await delete_route(world, "s")
    assert set(await types(world)) == {"models/a", "routes/r"}
    for revision in range(await world.revision() + 1):
        await world.check_digest(revision)


async def test_pinned_adapter_revision_is_an_entry(world: World) -> None:
    await world.register_model("a")
    await world.register_adapter("a", "x")
    await set_route(world, "r", route_spec("models/a/adapters/x/revisions/1"))
    assert (await types(world))["models/a/adapters/x/revisions/1"] == "AdapterRevisionEntry"
    entry = snapshot_pb2.AdapterRevisionEntry.FromString((await world.entries())[2].blob)
    assert (entry.adapter, entry.revision.number) == ("models/a/adapters/x", 1)


@pytest.mark.parametrize(
    ("target", "resource"),
    [
        ("models/b", "b"),
        ("models/b/revisions/1", "b"),
        ("models/b/adapters/x", "b"),
        ("models/b/adapters/x", "b/x"),
        ("models/b/adapters/x/revisions/1", "b/x"),
    ],
)
async def test_a_target_of_a_route_is_deleted_only_by_force(world: World, target: str, resource: str) -> None:
    await world.register_model("a")
    await world.register_model("b")
    await world.register_adapter("b", "x")
    await set_route(world, "r", route_spec("models/a", (target, 3), fallbacks=(target,)))
    before = await world.revision()

    async def delete(*, force: bool) -> None:
        if "/" in resource:
            await world.delete_adapter("b", "x", force=force)
        else:
            if not force:
                # The adapter must not be the reason for the refusal.
                with pytest.raises(errors.FailedPrecondition):
                    await world.delete_model("b")
                if "adapters" not in target:
                    await world.delete_adapter("b", "x")
            await world.delete_model("b", force=force)

    with pytest.raises(errors.FailedPrecondition):
        await delete(force=False)
    await delete(force=True)
    assert await world.revision() <= before + 2
    route = await get_route(world, "r")
    assert [target.resource for target in route.revision.spec.targets] == ["models/a"]
    assert list(route.revision.spec.fallbacks) == []
    assert route.revision.number == 2
    assert not [name for name in await types(world) if "revisions" in name]
    await world.check_digest(await world.revision())


async def test_a_refused_deletion_names_the_referring_routes(world: World) -> None:
    await world.register_model("a")
    await set_route(world, "r", route_spec("models/a"))
    with pytest.raises(errors.FailedPrecondition) as caught:
        await world.delete_model("a")
    assert caught.value.reason is errors.Reason.REFERRED_TO_BY_ROUTES
    assert caught.value.metadata["routes"] == "routes/r"


async def test_delete_by_force_leaves_no_route_without_a_target(world: World) -> None:
    await world.register_model("a")
    await world.register_model("b")
    await set_route(world, "r", route_spec("models/a", ("models/b", 0)))
    with pytest.raises(errors.FailedPrecondition) as caught:
        await world.delete_model("a", force=True)
    assert caught.value.reason is errors.Reason.ROUTE_WOULD_BE_EMPTY
    assert await world.revision() == 3
    await world.delete_model("b", force=True)
    assert [target.resource for target in (await get_route(world, "r")).revision.spec.targets] == ["models/a"]


async def test_routes_of_a_model_with_the_same_prefix_are_kept(world: World) -> None:
    await world.register_model("a")
    await world.register_model("a-b")
    await set_route(world, "r", route_spec("models/a", "models/a-b"))
    await world.delete_model("a", force=True)
    assert [target.resource for target in (await get_route(world, "r")).revision.spec.targets] == ["models/a-b"]


async def test_an_adapter_revision_with_a_rank_above_its_base_cannot_be_pinned(world: World, tmp_path: Path) -> None:
    await world.register_model("a", spec(lora={"maxRank": 32}))
    await world.register_adapter("a", "x", write_adapter(tmp_path / "high", rank=32))
    await world.register_adapter("a", "x", write_adapter(tmp_path / "low", rank=8))
    await world.register_model("a", spec(lora={"maxRank": 8}))
    await set_route(world, "r", route_spec("models/a/adapters/x"))
    with pytest.raises(errors.InvalidArgument) as caught:
        await set_route(world, "r", route_spec("models/a/adapters/x/revisions/1"))
    assert caught.value.reason is errors.Reason.ADAPTER_RANK_TOO_HIGH


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({}, "targets"),
        ({"targets": [{"resource": "routes/other"}]}, "targets[0].resource"),
        ({"targets": [{"resource": "models/a/revisions/0"}]}, "targets[0].resource"),
        ({"targets": [{"resource": "models/a"}, {"resource": "models/a"}]}, ""),
        ({"targets": [{"resource": "models/a", "weight": 0}]}, ""),
        ({"targets": [{"resource": "models/a", "weight": 10001}]}, "targets[0].weight"),
        ({"targets": [{"resource": "models/a", "weight": -1}, {"resource": "models/b"}]}, "targets[0].weight"),
        ({"targets": [{"resource": f"models/m{index}"} for index in range(17)]}, "targets"),
        ({"targets": [{"resource": "models/a"}], "fallbacks": [{"resource": "models/a"}] * 2}, ""),
        ({"targets": [{"resource": "models/a"}], "fallbacks": [{"resource": "routes/a"}]}, "fallbacks[0].resource"),
        ({"targets": [{"resource": "models/a"}], "sticky": {}}, "sticky.key"),
        ({"targets": [{"resource": "models/a"}], "sticky": {"header": "X-User"}}, "sticky.header"),
        ({"targets": [{"resource": "models/a"}], "sticky": {"user": False}}, "sticky.user"),
    ],
)
def test_requests_that_break_the_rules_of_the_proto_are_refused(broken: dict[str, Any], field: str) -> None:
    found = violations_of(json_format.ParseDict(broken, route_pb2.RouteSpec()))
    assert [violation.field for violation in found] == [field]
