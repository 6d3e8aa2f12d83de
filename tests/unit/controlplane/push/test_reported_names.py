from __future__ import annotations

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from controlplane.errors import Reason, Unavailable
from controlplane.fleet.progress import ResourceChange
from controlplane.push.reported_names import CatalogNames
from tests.unit.controlplane.fleet_world import resource


class Catalog:
    """A catalog with a few names, which counts how many it was asked for."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.asked: list[str] = []
        self.away = False

    async def in_catalog(self, reported: Sequence[str], since_revision: int) -> AbstractSet[str]:
        self.asked.extend(reported)
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "away")
        return self.names & set(reported)


def change(*names: str, replace: bool = False) -> ResourceChange:
    return ResourceChange(replace=replace, updated=tuple(map(resource, names)), removed=("models/gone",))


async def kept(catalog: CatalogNames, reported: ResourceChange, *, held: Sequence[str] = ()) -> list[str]:
    known = await catalog.known_part(reported, held=held, since_revision=1)
    assert (known.replace, known.removed) == (reported.replace, reported.removed)
    return [status.name for status in known.updated]


async def test_statuses_of_names_that_are_not_in_the_catalog_are_dropped() -> None:
    catalog = CatalogNames(Catalog("models/a"))
    assert await kept(catalog, change("models/x", "models/a", "models/y")) == ["models/a"]
    assert await kept(catalog, change("models/x")) == []


async def test_names_are_looked_up_once() -> None:
    source = Catalog("models/a", "models/b")
    catalog = CatalogNames(source)
    for _ in range(3):
        assert await kept(catalog, change("models/a", "models/b")) == ["models/a", "models/b"]
    assert source.asked == ["models/a", "models/b"]


async def test_a_name_that_was_kept_before_needs_no_look_unless_all_are_replaced() -> None:
    source = Catalog()
    catalog = CatalogNames(source)
    assert await kept(catalog, change("models/gone"), held=["models/gone"]) == ["models/gone"]
    assert source.asked == []
    assert await kept(catalog, change("models/gone", replace=True), held=["models/gone"]) == []


async def test_made_up_names_are_not_remembered_and_others_up_to_a_bound() -> None:
    names = [f"models/{number}" for number in range(4)]
    source = Catalog(*names)
    catalog = CatalogNames(source, confirmed_max=3)
    await kept(catalog, change(*names, "models/x"))
    source.asked.clear()
    assert await kept(catalog, change(*names, "models/x")) == names
    assert len([name for name in source.asked if name != "models/x"]) == 1
    assert "models/x" in source.asked


async def test_nothing_is_lost_while_the_database_is_away() -> None:
    source = Catalog("models/a")
    catalog = CatalogNames(source)
    source.away = True
    assert await kept(catalog, change("models/a")) == ["models/a"]
    source.away = False
    assert await kept(catalog, change("models/x")) == []


async def test_a_fleet_that_reports_a_new_name_at_once_needs_one_look() -> None:
    source = Catalog("models/a")
    catalog = CatalogNames(source)
    reports = await asyncio.gather(*(kept(catalog, change("models/a", f"models/x{number}")) for number in range(50)))
    assert reports == [["models/a"]] * 50
    assert source.asked.count("models/a") == 1


async def test_when_the_database_is_away_a_fleet_waits_for_one_look() -> None:
    source = Catalog("models/a")
    catalog = CatalogNames(source)
    source.away = True
    reports = await asyncio.gather(*(kept(catalog, change("models/a")) for _ in range(50)))
    assert reports == [["models/a"]] * 50
    assert source.asked == ["models/a"]
