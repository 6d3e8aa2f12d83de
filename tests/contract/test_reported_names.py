"""Which names that data planes report are in the catalog, on each kind of database."""

from __future__ import annotations

from tests.registry_world import World, spec


async def in_catalog(world: World, since_revision: int, *reported: str) -> list[str]:
    return sorted(await world.store.reported_names.in_catalog(reported, since_revision))


async def test_names_of_the_newest_snapshot_are_known(world: World) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")
    head = await world.revision()
    known = ["models/m", "models/m/adapters/a"]
    assert await in_catalog(world, head, *known, "models/n", "models/m/adapters/b", "x", "") == known
    assert await in_catalog(world, head + 1000, *known) == known


async def test_a_deleted_name_is_known_to_those_that_may_still_serve_it(world: World) -> None:
    await world.register_model("m")
    await world.delete_model("m")
    assert await in_catalog(world, 1, "models/m", "models/m/revisions/1") == ["models/m", "models/m/revisions/1"]
    assert await in_catalog(world, 2, "models/m", "models/m/revisions/1") == []


async def test_revisions_that_a_model_has_are_known(world: World) -> None:
    await world.register_model("m")
    await world.register_model("m", spec(scaling={"maxReplicas": 3}))
    reported = [f"models/m/revisions/{number}" for number in (1, 2, 3, 10**17)]
    assert await in_catalog(world, 2, *reported, "models/n/revisions/1", "models/m/revisions/01") == reported[:2]


async def test_a_thousand_made_up_names_are_one_look(world: World) -> None:
    await world.register_model("m")
    made_up = [f"models/m/revisions/{number}" for number in range(2, 1001)]
    assert await in_catalog(world, 1, "models/m/revisions/1", *made_up) == ["models/m/revisions/1"]
