"""Served names: unique over models and adapters, and free again when they are given up."""

from __future__ import annotations

import asyncio

import pytest

from controlplane import errors
from tests.registry_world import World


async def test_served_names_are_unique_over_models_and_adapters(world: World) -> None:
    await world.register_model("m", served_name="x")
    await world.register_adapter("m", "a", served_name="y")
    for attempt in (
        world.register_model("n", served_name="x"),
        world.register_model("n", served_name="y"),
        world.register_model("x"),
        world.register_adapter("m", "b", served_name="x"),
        world.register_adapter("m", "b", served_name="y"),
    ):
        with pytest.raises(errors.AlreadyExists) as caught:
            await attempt
        assert caught.value.reason == errors.Reason.SERVED_NAME_TAKEN
        assert caught.value.violations[0].field == "served_name"
        assert caught.value.metadata["holder"] in ("models/m", "models/m/adapters/a")
    assert await world.revision() == 2


async def test_served_name_is_free_again_after_rename_and_deletion(world: World) -> None:
    await world.register_model("m", served_name="x")
    await world.register_model("m", served_name="y")
    await world.register_model("n", served_name="x")
    await world.delete_model("m")
    await world.register_adapter("n", "a", served_name="y")
    await world.delete_model("n", force=True)
    await world.register_model("o", served_name="y")
    await world.register_model("p", served_name="x")


async def test_adapters_keep_their_names_when_the_base_is_renamed(world: World) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")
    await world.register_model("m", served_name="other")
    adapter = await world.store.adapters.get("m", "a")
    assert adapter.served_name == "m:a"


async def test_one_of_several_concurrent_claims_of_a_name_wins(world: World) -> None:
    outcomes = await asyncio.gather(
        *(world.register_model(f"m{index}", served_name="x") for index in range(8)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    assert await world.revision() == 1
