"""What the registry lets in, every data plane takes: the bytes of a snapshot are bounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs

from broadsheet.v1.snapshot_service_pb2 import Chunk, ListSnapshotsRequest
from controlplane import errors
from controlplane.catalog import domain
from controlplane.catalog.convert import entry_to_proto
from controlplane.store.schema import catalog
from dataplane.snapshot.assembler import Assembler
from dataplane.snapshot.policy import Limits
from dataplane.snapshot.rejection import SNAPSHOT_TOO_LARGE
from dataplane.snapshot.snapshot import Position
from tests.contract import test_rollouts
from tests.contract.resource_calls import undelete_model
from tests.contract.test_api_keys import create, revoke
from tests.contract.test_rollback import roll_back, set_route
from tests.registry_world import NO_CONTEXT, World, spec

LIMIT = "controlplane.catalog.snapshot.SNAPSHOT_BYTES_MAX"


def size_of(entries: Sequence[domain.Entry]) -> int:
    return sum(len(entry.name) + len(entry.type) + len(entry.blob) for entry in entries)


async def counted(world: World) -> int:
    """What the catalog's row says, as of the newest revision."""
    async with world.store._database.engine.connect() as connection:
        row = (await connection.execute(select(catalog))).one()
    assert row.entry_bytes_revision == row.revision
    return int(row.entry_bytes)


def taken_by_data_plane(entries: Sequence[domain.Entry], total_bytes_max: int) -> bool:
    position = Position(store_uid="s", revision=1, digest=b"")
    assembler = Assembler(position, len(entries), Limits(total_bytes_max=total_bytes_max))
    rejection = assembler.add(Chunk(entries=map(entry_to_proto, entries)))
    assert rejection is None or rejection.reason == SNAPSHOT_TOO_LARGE
    return rejection is None


async def refused(world: World, call: object) -> errors.ResourceExhausted:
    """The refusal of a call, which changes nothing."""
    before = await world.store.head(), await counted(world)
    with pytest.raises(errors.ResourceExhausted) as caught:
        await call  # type: ignore[misc]  # any awaitable
    assert caught.value.reason == errors.Reason.CATALOG_FULL
    assert (await world.store.head(), await counted(world)) == before
    return caught.value


async def test_the_bytes_of_the_snapshot_are_counted_with_every_change(world: World) -> None:
    await world.register_model("m", spec(lora={"maxRank": 8}))
    await world.register_adapter("m", "a")
    await world.register_model("n")
    await set_route(world, "r", "models/n", "models/m/revisions/1")
    await create(world, "k")
    await world.register_model("m", spec(lora={"maxRank": 16}), labels={"env": "prod"})
    assert await counted(world) == size_of(await world.entries())
    await revoke(world, "k")
    await world.delete_adapter("m", "a")
    await roll_back(world, 3)
    await world.delete_model("m", force=True)
    await undelete_model(world)
    assert await counted(world) == size_of(await world.entries()) > 0
    listed = (await world.snapshots.ListSnapshots(ListSnapshotsRequest(), NO_CONTEXT)).snapshots
    for summary in listed:
        assert summary.size_bytes == size_of(await world.entries(summary.position.revision))
    assert listed[-1].HasField("size_bytes")


async def test_a_snapshot_that_data_planes_would_refuse_is_not_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.register_model("m", labels={"team": "x" * 60})
    await world.register_model("n")
    await create(world, "k")
    entries = await world.entries()
    limit = await counted(world)
    assert taken_by_data_plane(entries, limit)
    assert not taken_by_data_plane(entries, limit - 1)
    monkeypatch.setattr(LIMIT, limit)

    error = await refused(world, world.register_model("o"))
    assert int(error.metadata["sizeBytes"]) > limit
    assert error.metadata["sizeBytesMax"] == str(limit)
    assert f"at most {limit} are allowed" in error.message
    await refused(world, world.register_model("n", labels={"a": "b"}))
    await refused(world, create(world, "another"))
    await refused(world, set_route(world, "r", "models/n"))

    # What takes bytes away passes, and so does what changes none.
    await revoke(world, "k")
    await world.delete_model("m")
    await world.register_model("n")
    await refused(world, world.register_model("o", labels={"team": "x" * 63, "more": "x" * 63, "most": "x" * 63}))
    await create(world, "another")
    # What was deleted does not fit beside what has come since.
    await refused(world, undelete_model(world))
    await refused(world, roll_back(world, 2))
    assert taken_by_data_plane(await world.entries(), limit)


async def test_a_catalog_above_the_limit_can_be_made_smaller(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for model_id in ("l", "m", "n"):
        await world.register_model(model_id, labels={"a": "b"})
    monkeypatch.setattr(LIMIT, 1)
    await world.register_model("m", labels={})
    await world.delete_model("n")
    await refused(world, world.register_model("m", labels={"a": "b"}))
    await world.delete_model("m")
    await world.delete_model("l")
    assert await counted(world) == 0


async def test_a_count_that_another_release_left_behind_is_made_anew(world: World) -> None:
    for model_id in ("m", "n"):
        await world.register_model(model_id)
    async with world.store._database.begin_write() as connection:
        await connection.execute(update(catalog).values(entry_bytes=7, entry_bytes_revision=1))
    await world.register_model("o")
    assert await counted(world) == size_of(await world.entries())


async def test_a_rollout_that_finds_no_room_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for model_id in ("m", "n"):
        for replicas in (1, 2):
            model_spec = spec(scaling={"minReplicas": replicas})
            await world.register_model(model_id, model_spec, rollout_policy=test_rollouts.CANARY)
    before = await world.revision()
    write = world.store.write

    async def full_for_m(work: Any, *, resource: str, **how: Any) -> object:
        if resource == "models/m":
            raise errors.ResourceExhausted(errors.Reason.CATALOG_FULL, "there is no room")
        return await write(work, resource=resource, **how)

    monkeypatch.setattr(world.store, "write", full_for_m)
    with capture_logs() as logs:
        await test_rollouts.carry_on(world, test_rollouts.Fleet())
    assert [(entry["event"], entry["model"]) for entry in logs] == [
        ("rollout_not_moved", "models/m"),
        ("rollout_moved", "models/n"),
    ]
    assert await world.revision() == before + 1
