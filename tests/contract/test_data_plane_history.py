"""The history of data planes, on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import func, select

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.domain import HISTORY_MAX, PositionChange
from controlplane.store.fleet.schema import data_plane_changes
from controlplane.store.store import Store
from tests.registry_world import START, World
from tests.unit.controlplane.fleet_world import at, record


def change(number: int, time: datetime = START) -> PositionChange:
    return PositionChange(
        number=number,
        time=time + timedelta(seconds=number),
        serving=at(number) if number % 3 else None,
        phase=pb.PHASE_REJECTED if number % 2 else pb.PHASE_ACTIVE,
        reason="DOOMED" if number % 2 else "",
        rejected=at(number + 1) if number % 2 else None,
    )


async def put(store: Store, data_plane_id: str, *numbers: int) -> None:
    changes = tuple(change(number) for number in numbers)
    await store.upsert_data_plane(replace(record(data_plane_id), change_count=max(numbers, default=0), changes=changes))


async def rows(store: Store) -> int:
    async with store._begin_read() as connection:
        return int((await connection.execute(select(func.count()).select_from(data_plane_changes))).scalar_one())


async def test_the_newest_changes_are_kept_of_each_data_plane(world: World) -> None:
    for first in range(1, 121, 8):
        await put(world.store, "a", *range(first, first + 8))
    await put(world.store, "b", 1, 2)
    await put(world.store, "c")
    assert await world.store.data_planes.history("a") == [
        change(number) for number in range(120, 120 - HISTORY_MAX, -1)
    ]
    assert await world.store.data_planes.history("b") == [change(2), change(1)]
    assert await world.store.data_planes.history("c") == []
    assert await rows(world.store) == HISTORY_MAX + 2


async def test_a_control_plane_that_starts_goes_on_counting(world: World) -> None:
    await put(world.store, "a", 1, 2, 3)
    found = await world.store.get_data_plane("a")
    assert found is not None
    assert (found.change_count, found.changes) == (3, ())


async def test_many_data_planes_are_written_together(world: World) -> None:
    records = [replace(record(f"dp-{n}"), change_count=2, changes=(change(1), change(2))) for n in range(100)]
    await world.store.upsert_data_plane(*records)
    assert await rows(world.store) == 200
    assert await world.store.data_planes.history("dp-77") == [change(2), change(1)]
