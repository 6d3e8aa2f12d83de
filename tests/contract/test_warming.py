"""Warming in the registry: entries, durations, and what ends it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf import duration_pb2

from broadsheet.v1 import (
    audit_pb2,
    model_pb2,
    registry_service_pb2,
    rollback_pb2,
    rollout_pb2,
    snapshot_pb2,
    warming_pb2,
)
from controlplane import errors
from tests.registry_world import NO_CONTEXT, World, spec


async def warm(
    world: World, seconds: int | None = None, name: str = "models/m", **fields: Any
) -> warming_pb2.WarmModelResponse:
    duration = duration_pb2.Duration(seconds=seconds) if seconds is not None else None
    request = warming_pb2.WarmModelRequest(name=name, duration=duration, **fields)
    return await world.registry.WarmModel(request, NO_CONTEXT)


async def get(world: World) -> model_pb2.Model:
    return (await world.registry.GetModel(registry_service_pb2.GetModelRequest(name="models/m"), NO_CONTEXT)).model


async def entry(world: World) -> snapshot_pb2.ModelEntry:
    return snapshot_pb2.ModelEntry.FromString((await world.entries())[0].blob)


def time_left(model: model_pb2.Model) -> timedelta:
    """The time left when the change was made."""
    return model.warm_until.ToDatetime(tzinfo=UTC) - model.update_time.ToDatetime(tzinfo=UTC)


async def test_warming_is_one_catalog_revision_and_no_model_revision(world: World) -> None:
    before = (await world.register_model("m")).model
    answer = await warm(world)
    assert (answer.catalog_revision, await world.revision()) == (2, 2)
    assert answer.model == await get(world)
    assert time_left(answer.model) == timedelta(minutes=10)
    assert (answer.model.revision, answer.model.etag) == (before.revision, before.etag)
    assert answer.model.catalog_revision == 2
    assert (await entry(world)).warm_until == answer.model.warm_until
    assert [head.position.revision for head in world.published] == [1, 2]
    await world.check_digest(2)
    log = await world.registry.ListAuditEvents(audit_pb2.ListAuditEventsRequest(), NO_CONTEXT)
    event = log.events[0]
    assert (len(log.events), event.method, event.catalog_revision) == (2, "WarmModel", 2)
    assert [field.path for field in event.changes[0].fields] == ["warm_until"]


async def test_the_last_warming_wins_and_zero_ends_it(world: World) -> None:
    await world.register_model("m")
    await warm(world, 3600)
    assert time_left((await warm(world, 1)).model) == timedelta(seconds=1)
    await warm(world, 3600)
    ended = await warm(world, 0)
    assert ended.catalog_revision == 5
    assert not ended.model.HasField("warm_until")
    assert not (await entry(world)).HasField("warm_until")
    assert (await warm(world, 0)).catalog_revision == 5  # nothing to end


async def test_ending_an_expired_warming_writes_nothing(world: World) -> None:
    await world.register_model("m")
    await warm(world, 1)
    await world.register_model("n")
    assert (await warm(world, 0)).catalog_revision == await world.revision() == 3


async def test_a_repeat_changes_nothing(world: World) -> None:
    await world.register_model("m")
    request_id = str(uuid.uuid4())
    first = await warm(world, 60, request_id=request_id)
    assert await warm(world, 60, request_id=request_id) == first
    assert await world.revision() == 2


async def test_validate_only_writes_nothing(world: World) -> None:
    await world.register_model("m")
    answer = await warm(world, 60, validate_only=True)
    assert answer.model.HasField("warm_until")
    assert not (await get(world)).HasField("warm_until")
    assert await world.revision() == 1


async def test_unknown_deleted_and_changed_models_are_refused(world: World) -> None:
    with pytest.raises(errors.NotFound):
        await warm(world)
    etag = (await world.register_model("m")).model.etag
    await warm(world, etag=etag)
    await world.register_model("m", labels={"a": "b"})
    with pytest.raises(errors.Aborted):
        await warm(world, etag=etag)
    await world.delete_model("m")
    with pytest.raises(errors.NotFound):
        await warm(world)


async def test_other_changes_keep_the_warming(world: World) -> None:
    await world.register_model("m")
    until = (await warm(world, 3600)).model.warm_until
    await world.register_model("m", spec(scaling={"maxReplicas": 3}))
    assert (await entry(world)).warm_until == until
    read = await get(world)
    read.ClearField("revision")
    read.labels["a"] = "b"
    read.warm_until.FromDatetime(datetime(2040, 1, 1, tzinfo=UTC))  # set by the control plane
    await world.registry.UpdateModel(registry_service_pb2.UpdateModelRequest(model=read), NO_CONTEXT)
    assert (await entry(world)).warm_until == until
    await world.delete_model("m")
    await world.registry.UndeleteModel(registry_service_pb2.UndeleteModelRequest(name="models/m"), NO_CONTEXT)
    assert (await entry(world)).warm_until == until


async def test_a_catalog_rollback_restores_the_older_warming(world: World) -> None:
    await world.register_model("m")
    until = (await warm(world, 3600)).model.warm_until
    await warm(world, 0)
    for revision, has in ((2, True), (1, False)):
        request = rollback_pb2.RollbackCatalogRequest(to_revision=revision)
        answer = await world.snapshots.RollbackCatalog(request, NO_CONTEXT)
        assert answer.change_count == 1
        assert (await entry(world)).HasField("warm_until") == has
        assert (await get(world)).HasField("warm_until") == has
        if has:
            assert (await entry(world)).warm_until == until


@pytest.mark.parametrize(
    ("policy", "is_cold"),
    [
        (rollout_pb2.RolloutPolicy(), False),
        (rollout_pb2.RolloutPolicy(require_warm=True), False),
        (rollout_pb2.RolloutPolicy(require_warm=False), True),
        (
            rollout_pb2.RolloutPolicy(
                strategy=rollout_pb2.RolloutPolicy.STRATEGY_CANARY,
                steps=[rollout_pb2.CanaryStep(percent=10)],
                require_warm=False,
            ),
            False,
        ),
    ],
)
async def test_only_replacement_without_require_warm_is_cold(
    world: World, policy: rollout_pb2.RolloutPolicy, is_cold: bool
) -> None:
    await world.register_model("m", rollout_policy=policy)
    assert (await entry(world)).replace_cold is is_cold
