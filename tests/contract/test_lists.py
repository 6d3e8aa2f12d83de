"""Lists of models and adapters: filters, orders, and pages that stay correct during writes."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from broadsheet.v1 import adapter_pb2, model_pb2, status_pb2
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import errors
from controlplane.catalog import domain
from controlplane.listing import filters, listing
from controlplane.listing.listing import ListQuery
from tests.registry_world import NO_CONTEXT, World

State = status_pb2.ResourceState

TEXTS = ["", "a", "A", "ab", "b%", "b_c", "*", "a'b", 'a"b', "\\", "ü✓", "aXa"]


async def models(world: World, **fields: Any) -> list[str]:
    """The ids of the listed models, over all pages."""
    ids: list[str] = []
    request = pb.ListModelsRequest(**fields)
    while True:
        answer = await world.registry.ListModels(request, NO_CONTEXT)
        ids += [model.name.removeprefix("models/") for model in answer.models]
        request.page_token = answer.next_page_token
        if not request.page_token:
            return ids


async def adapters(world: World, parent: str = "models/-", **fields: Any) -> list[str]:
    """The ids of the listed adapters, with those of their models, over all pages."""
    found: list[str] = []
    request = pb.ListAdaptersRequest(parent=parent, **fields)
    while True:
        answer = await world.registry.ListAdapters(request, NO_CONTEXT)
        found += [adapter.name.removeprefix("models/").replace("/adapters/", "/") for adapter in answer.adapters]
        request.page_token = answer.next_page_token
        if not request.page_token:
            return found


def status(name: str, state: State.ValueType, data_plane: str = "d", *, connected: bool = True) -> Any:
    return status_pb2.DataPlaneResourceStatus(
        data_plane=f"dataPlanes/{data_plane}",
        connected=connected,
        status=status_pb2.ResourceStatus(name=name, state=state, reason="OUT_OF_MEMORY"),
    )


def fleet(*statuses: status_pb2.DataPlaneResourceStatus) -> Callable[..., Sequence[status_pb2.DataPlaneResourceStatus]]:
    """A fleet with these statuses, in which all other adapters are IDLE."""

    def said(name: str, *, idle_since_revision: int | None = None) -> Sequence[status_pb2.DataPlaneResourceStatus]:
        idle = [status(name, State.RESOURCE_STATE_IDLE)] if idle_since_revision is not None else []
        return [status for status in statuses if status.status.name == name] or idle

    return said


def card(owner: str) -> model_pb2.ModelCard:
    return model_pb2.ModelCard(owned_by=owner)


async def test_models_are_found_by_label_owner_name_and_state(world: World) -> None:
    await world.register_model("a", labels={"env": "prod", "team": "x"}, card=card("ann"))
    await world.register_model("b", labels={"env": "dev", "broadsheet.dev/by": "me"}, served_name="org/B:1")
    await world.register_model("c", card=card("ann lee"))
    world.resource_statuses = fleet(
        status("models/a", State.RESOURCE_STATE_READY),
        status("models/a", State.RESOURCE_STATE_FAILED, "e"),
        status("models/b", State.RESOURCE_STATE_READY),
        status("models/b", State.RESOURCE_STATE_FAILED, "gone", connected=False),
    )
    for text, expected in {
        "": "abc",
        "labels.env = prod": "a",
        "labels.env != prod": "bc",
        "labels.env:*": "ab",
        "NOT labels:env": "c",
        "labels.env = *": "ab",
        'labels."broadsheet.dev/by" = me': "b",
        "labels.broadsheet.dev/by = m*": "b",
        "owner = ann": "a",
        "card.owned_by = ann*": "ac",
        'owner = ""': "b",
        "owner:*": "ac",
        "served_name = org/B:1": "b",
        "served_name = *:1 OR model_id = c": "bc",
        "state = READY": "ab",
        "state = FAILED": "a",
        "state != READY": "c",
        "state:*": "ab",
        "-state = FAILED AND labels.env:*": "b",
        "labels.env = prod OR owner = ann* AND state:*": "a",
    }.items():
        assert "".join(await models(world, filter=text)) == expected, text


async def test_adapters_are_found_by_label_owner_name_and_state(world: World) -> None:
    await world.register_model("m", served_name="M")
    await world.register_model("n")
    await world.register_adapter("m", "a", labels={"team": "x"}, card=adapter_pb2.AdapterCard(owned_by="ann"))
    await world.register_adapter("m", "b", served_name="pirate")
    await world.register_adapter("n", "a")
    await world.register_adapter("n", "gone")
    await world.delete_adapter("n", "gone")
    world.resource_statuses = fleet(status("models/m/adapters/b", State.RESOURCE_STATE_READY))
    for text, expected in {
        "labels:team": ["m/a"],
        "owner = ann": ["m/a"],
        "model_id = m": ["m/a", "m/b"],
        "adapter_id = a": ["m/a", "n/a"],
        "served_name = M:* OR served_name = p*": ["m/a", "m/b"],
        "state = IDLE": ["m/a", "n/a"],
        "state = READY": ["m/b"],
        "NOT state:*": [],
    }.items():
        assert await adapters(world, filter=text) == expected, text
    assert await adapters(world, "models/n", filter="adapter_id = a") == ["n/a"]
    assert await adapters(world, filter="NOT state:*", show_deleted=True) == ["n/gone"]


async def test_each_resource_is_listed_with_its_states_and_their_reasons(world: World) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")
    failed = [
        status("models/m", State.RESOURCE_STATE_FAILED),
        status("models/m", State.RESOURCE_STATE_READY, "e", connected=False),
    ]
    world.resource_statuses = fleet(*failed)
    (model,) = (await world.registry.ListModels(pb.ListModelsRequest(), NO_CONTEXT)).models
    assert list(model.statuses) == failed
    request = pb.ListAdaptersRequest(parent="models/m")
    (adapter,) = (await world.registry.ListAdapters(request, NO_CONTEXT)).adapters
    assert [status.status.state for status in adapter.statuses] == [State.RESOURCE_STATE_IDLE]


def random_filter(draw: random.Random, depth: int) -> filters.Filter:
    kind = draw.randrange(6) if depth else 5
    if kind == 0:
        return filters.Not(random_filter(draw, depth - 1))
    if kind < 4:
        operands = tuple(random_filter(draw, depth - 1) for _ in range(draw.choice([2, 3])))
        return filters.And(operands) if kind == 1 else filters.Or(operands)
    field, key = draw.choice(
        [("labels", "k"), ("labels", "k.x/y"), ("owner", ""), ("served_name", ""), ("model_id", ""), ("state", "")]
    )
    pattern = filters.Pattern(
        text=draw.choice([*TEXTS, "m1", "READY"]), open_start=draw.random() < 0.5, open_end=draw.random() < 0.5
    )
    return filters.Comparison(field=field, key=key, pattern=pattern)


async def test_the_sql_condition_of_a_filter_selects_every_match(world: World) -> None:
    draw = random.Random(0)
    for index, text in enumerate(TEXTS):
        labels = {key: value for key, value in (("k", text), ("k.x/y", draw.choice(TEXTS))) if draw.random() < 0.8}
        await world.register_model(
            f"m{index}", served_name=f"{draw.choice('aAb')}{index}", labels=labels, card=card(text)
        )
    # PostgreSQL can extract neither value from this JSON.
    await world.register_model("odd", labels={"k": "a\0b", "k.x/y": "a"})
    everything = await world.store.models.list(limit=100)

    def is_wanted(wanted: filters.Filter, model: domain.Model) -> bool:
        return filters.matches(wanted, listing.model_values(model, lambda: [State.RESOURCE_STATE_READY]))

    left_out = 0
    for _ in range(200):
        wanted = random_filter(draw, draw.randrange(4))
        listed = await world.store.models.list(ListQuery(wanted=wanted), limit=100)
        missing = [model.id for model in everything if is_wanted(wanted, model) and model not in listed]
        assert not missing, wanted
        left_out += len(everything) - len(listed)
    assert left_out > 500, "the conditions on columns are not left to this process"


async def test_conditions_on_columns_are_checked_by_the_database(world: World) -> None:
    for index in range(4):
        labels = {"env": "prod" if index == 1 else "dev"} if index else {}
        await world.register_model(f"m{index}", served_name=f"{'ab'[index == 1]}{index}", labels=labels)
    for text in ("labels.env = prod", "served_name = b*", "model_id = *1", "NOT labels:env"):
        wanted = filters.parse(text, filters.MODEL_FIELDS)
        assert len(await world.store.models.list(ListQuery(wanted=wanted), limit=100)) == 1, text


ORDERS = ["", "name desc", "create_time desc", "update_time", "served_name desc", "served_name, create_time desc"]


async def test_pages_follow_the_order(world: World) -> None:
    for index, name in enumerate(["b", "a-b", "a", "c", "d"]):
        await world.register_model(name, served_name=f"s{(index * 3) % 5}")
        await world.register_adapter(name, "y", served_name=f"t{index % 3}:{index}")
        await world.register_adapter(name, "x", served_name=f"u{index}")
    await world.register_model("a", served_name="Z")
    await world.delete_model("d", force=True)
    # A deleted model keeps its served name in its row, though another may hold it by now.
    await world.register_model("e", served_name="s2")
    keys: dict[str, Callable[[domain.Model | domain.Adapter], Any]] = {
        "name": lambda item: (item.model_id, item.id) if isinstance(item, domain.Adapter) else item.id,
        "served_name": lambda item: item.served_name,
        "create_time": lambda item: item.create_time,
        "update_time": lambda item: item.update_time,
    }
    asked = ListQuery(show_deleted=True)
    all_models = list(await world.store.models.list(asked, limit=100))
    all_adapters = list(await world.store.adapters.list(None, asked, limit=100))
    for order_by in ORDERS:
        for field in reversed(listing.parse_order(order_by)):
            all_models.sort(key=keys[field.name], reverse=field.descending)
            all_adapters.sort(key=keys[field.name], reverse=field.descending)
        for size in (1, 2, 100):
            fields: dict[str, Any] = {"order_by": order_by, "page_size": size, "show_deleted": True}
            assert await models(world, **fields) == [model.id for model in all_models], order_by
            assert await adapters(world, **fields) == [
                f"{adapter.model_id}/{adapter.id}" for adapter in all_adapters
            ], order_by


async def test_pages_neither_repeat_nor_skip_during_concurrent_writes(world: World) -> None:
    for order_by in ("name desc", "create_time", "create_time desc", "served_name, create_time desc"):
        run = order_by.replace(" ", "-").replace(",", "").replace("_", "-")
        for index in range(0, 16, 2):
            await world.register_model(f"{run}{index:02}", labels={"run": run})
        request = pb.ListModelsRequest(page_size=2, filter=f"labels.run = {run}", order_by=order_by)
        seen: list[str] = []
        for step in range(10):
            answer = await world.registry.ListModels(request, NO_CONTEXT)
            seen += [model.name for model in answer.models]
            request.page_token = answer.next_page_token
            if not request.page_token:
                break
            await world.register_model(f"{run}{step * 2 + 1:02}", labels={"run": run})
            await world.register_model(f"{run}{step * 6 % 18:02}", labels={"run": run, "step": str(step)})
            if step == 1:
                await world.delete_model(f"{run}10")
        assert request.page_token == "", order_by
        assert len(seen) == len(set(seen)), order_by
        assert {f"models/{run}{index:02}" for index in range(0, 16, 2) if index != 10} <= set(seen), order_by


async def test_a_page_token_is_bound_to_its_filter_and_order(world: World) -> None:
    for name in "abc":
        await world.register_model(name)
        await world.register_adapter("a", name)
    asked = {"filter": "model_id:*", "order_by": "create_time", "page_size": 1}
    others = [{"filter": "model_id = *"}, {"filter": ""}, {"order_by": "create_time desc"}, {"order_by": ""}]

    async def check(call: Callable[[Any, Any], Awaitable[Any]], kind: Callable[..., Any], **fields: Any) -> None:
        token = (await call(kind(**fields, **asked), NO_CONTEXT)).next_page_token
        assert (await call(kind(**fields, **{**asked, "page_size": 2, "page_token": token}), NO_CONTEXT)) is not None
        for other in others:
            with pytest.raises(errors.InvalidArgument) as caught:
                await call(kind(**fields, **{**asked, **other, "page_token": token}), NO_CONTEXT)
            assert caught.value.reason == errors.Reason.INVALID_PAGE_TOKEN

    await check(world.registry.ListModels, pb.ListModelsRequest)
    await check(world.registry.ListAdapters, pb.ListAdaptersRequest, parent="models/-")


async def test_a_search_without_a_column_reads_a_bounded_number_of_rows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlplane.listing.paging.SCANNED_MAX", 4)
    monkeypatch.setattr("controlplane.listing.paging._READ_ITEMS", 2)
    for index in range(9):
        await world.register_model(f"m{index}", card=card("ann" if index == 6 else ""))
    request = pb.ListModelsRequest(filter="owner = ann")
    answers = [await world.registry.ListModels(request, NO_CONTEXT)]
    while answers[-1].next_page_token:
        request.page_token = answers[-1].next_page_token
        answers.append(await world.registry.ListModels(request, NO_CONTEXT))
    assert [[model.name for model in answer.models] for answer in answers] == [[], ["models/m6"], []]
