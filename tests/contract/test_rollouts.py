"""Rollouts in the registry: what data planes get, who advances them, and what survives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broadsheet.v1 import model_pb2, registry_service_pb2, rollback_pb2, rollout_pb2, snapshot_pb2, status_pb2
from controlplane import errors
from controlplane.catalog import rollout
from controlplane.catalog.rollout import Observed
from controlplane.store.store import Store
from controlplane.upkeep import rollouts
from tests.adapter_directories import write_adapter
from tests.registry_world import NO_CONTEXT, World, open_world, spec

READY, FAILED = status_pb2.RESOURCE_STATE_READY, status_pb2.RESOURCE_STATE_FAILED
LATER = datetime(2030, 1, 1, tzinfo=UTC)
CANARY = rollout_pb2.RolloutPolicy(
    strategy=rollout_pb2.RolloutPolicy.STRATEGY_CANARY,
    steps=[rollout_pb2.CanaryStep(percent=10), rollout_pb2.CanaryStep(percent=50)],
)


class Fleet:
    """A data plane that reports a given state."""

    def __init__(self, state: status_pb2.ResourceState.ValueType = READY) -> None:
        self.state = state
        self.asked: list[str] = []

    def __call__(self, name: str) -> Sequence[Observed]:
        self.asked.append(name)
        return [Observed(data_plane="dataPlanes/d", state=self.state, reason="OUT_OF_MEMORY", message="too big")]


async def register(world: World, replicas: int, policy: rollout_pb2.RolloutPolicy = CANARY) -> int:
    answer = await world.register_model("m", spec(scaling={"minReplicas": replicas}), rollout_policy=policy)
    return answer.catalog_revision


async def carry_on(world: World, fleet: Fleet, now: datetime = LATER, store: Store | None = None) -> None:
    await rollouts.advance(store or world.store, fleet, now=now)


async def get(world: World) -> model_pb2.Model:
    return (await world.registry.GetModel(registry_service_pb2.GetModelRequest(name="models/m"), NO_CONTEXT)).model


async def entry(world: World) -> snapshot_pb2.ModelEntry:
    return snapshot_pb2.ModelEntry.FromString((await world.entries())[0].blob)


async def control(world: World, action: str, **fields: bool) -> rollout_pb2.ControlRolloutResponse:
    request = rollout_pb2.ControlRolloutRequest(name="models/m", action=action, **fields)  # type: ignore[arg-type]
    return await world.registry.ControlRollout(request, NO_CONTEXT)


async def test_each_step_is_one_catalog_revision_and_reaches_the_snapshot(world: World) -> None:
    await register(world, 1)
    await register(world, 2)
    shares = []
    for _ in range(4):
        sent = await entry(world)
        shares.append((sent.revision.number, sent.candidate.number, sent.candidate_percent, sent.warm_candidate))
        await carry_on(world, Fleet())
    assert shares == [(1, 2, 10, True), (1, 2, 50, True), (2, 0, 0, False), (2, 0, 0, False)]
    assert await world.revision() == 4
    assert (await world.store.revisions.commit_at(4)).method == "AdvanceRollout"
    model = await get(world)
    assert (model.rollout.state, model.revision.number) == (rollout_pb2.Rollout.STATE_COMPLETE, 2)
    assert [head.position.revision for head in world.published] == [1, 2, 3, 4]
    await world.check_digest(4)


async def test_data_planes_are_asked_about_the_candidate(world: World) -> None:
    await register(world, 1)
    await register(world, 2)
    fleet = Fleet()
    await carry_on(world, fleet)
    assert fleet.asked == ["models/m/revisions/2"]


async def test_a_failed_rollout_restores_the_stable_content_and_keeps_the_reason(world: World) -> None:
    await register(world, 1)
    await register(world, 2)
    await carry_on(world, Fleet(FAILED))
    model, sent = await get(world), await entry(world)
    assert (model.rollout.state, model.rollout.reason) == (rollout_pb2.Rollout.STATE_REVERTED, "OUT_OF_MEMORY")
    assert "dataPlanes/d: too big" in model.rollout.message
    assert (sent.revision.number, sent.revision.spec.scaling.min_replicas) == (3, 1)
    assert not sent.HasField("candidate")
    numbers = [
        revision.number for revision in await world.store.models.list_revisions("m", before_number=None, limit=9)
    ]
    assert numbers == [3, 2, 1]


async def test_concurrent_control_planes_take_each_step_once(world: World) -> None:
    await register(world, 1)
    await register(world, 2)
    # All of them read the same state before any of them writes.
    for _ in range(2):
        models = await world.store.models.list_rollouts()
        before = await world.revision()
        decisions = [(model, rollout.decide(model, Fleet()("x"), LATER)) for model in models]
        await asyncio.gather(
            *(
                rollouts.move(world.store, model, decision)
                for model, decision in decisions
                for _ in range(8)
                if decision is not None
            )
        )
        assert await world.revision() == before + 1


async def test_a_decision_from_an_outdated_state_is_dropped(world: World) -> None:
    await register(world, 1)
    await register(world, 2)
    (read,) = await world.store.models.list_rollouts()
    decision = rollout.decide(read, Fleet()("x"), LATER)
    assert decision is not None
    await control(world, "ACTION_PAUSE")
    await rollouts.move(world.store, read, decision)
    assert (await get(world)).rollout.state == rollout_pb2.Rollout.STATE_PAUSED
    await world.delete_model("m")
    await rollouts.move(world.store, read, decision)


async def test_a_rollout_survives_a_restart(store_url: str, tmp_path: Path) -> None:
    async with open_world(store_url, tmp_path) as world:
        await register(world, 1)
        await register(world, 2)
        before = await get(world)
    async with open_world(store_url, tmp_path) as world:
        assert await get(world) == before
        await carry_on(world, Fleet())
        assert (await get(world)).rollout.step == 2


async def test_a_step_waits_for_its_hold(world: World) -> None:
    policy = rollout_pb2.RolloutPolicy()
    policy.CopyFrom(CANARY)
    policy.steps[0].hold.seconds = 3600
    await register(world, 1, policy)
    await register(world, 2, policy)
    began = (await get(world)).rollout.update_time.ToDatetime(tzinfo=UTC)
    await carry_on(world, Fleet(), began + timedelta(seconds=3599))
    assert (await get(world)).rollout.step == 1
    await carry_on(world, Fleet(), began + timedelta(seconds=3600))
    assert (await get(world)).rollout.step == 2


async def test_pause_resume_abort(world: World) -> None:
    await register(world, 1)
    await register(world, 2)
    assert (await control(world, "ACTION_PAUSE", validate_only=True)).catalog_revision == 3
    paused = await control(world, "ACTION_PAUSE")
    assert (paused.rollout.state, paused.catalog_revision) == (rollout_pb2.Rollout.STATE_PAUSED, 3)
    await carry_on(world, Fleet())
    assert await world.revision() == 3
    with pytest.raises(errors.FailedPrecondition):
        await control(world, "ACTION_PAUSE")
    await control(world, "ACTION_RESUME")
    aborted = await control(world, "ACTION_ABORT")
    assert (aborted.rollout.state, aborted.rollout.reason) == (rollout_pb2.Rollout.STATE_REVERTED, "ABORTED")
    assert (await entry(world)).revision.spec.scaling.min_replicas == 1


async def test_labels_and_a_rollback_during_a_rollout(world: World) -> None:
    await register(world, 1)
    await register(world, 2)
    await world.register_model("m", spec(scaling={"minReplicas": 2}), rollout_policy=CANARY, labels={"a": "b"})
    sent = await entry(world)
    assert (dict(sent.labels), sent.candidate.number, sent.candidate_percent) == ({"a": "b"}, 2, 10)
    await register(world, 3)
    request = registry_service_pb2.RollbackModelRequest(name="models/m", revision_number=2)
    await world.registry.RollbackModel(request, NO_CONTEXT)
    sent = await entry(world)
    assert (sent.revision.number, sent.revision.spec.scaling.min_replicas) == (4, 2)
    assert not sent.HasField("candidate")


async def test_a_catalog_rollback_is_not_rolled_out_in_steps(world: World) -> None:
    for replicas in (1, 2, 3):
        await register(world, replicas)
    await world.snapshots.RollbackCatalog(rollback_pb2.RollbackCatalogRequest(to_revision=1), NO_CONTEXT)
    sent = await entry(world)
    assert (sent.revision.spec.scaling.min_replicas, sent.HasField("candidate")) == (1, False)
    assert (await get(world)).rollout_policy.steps[0].percent == 10


async def test_an_adapter_must_fit_both_revisions_of_a_rollout(world: World, tmp_path: Path) -> None:
    await world.register_model("m", spec(lora={"maxRank": 8}), rollout_policy=CANARY)
    await world.register_model("m", spec(lora={"maxRank": 32}), rollout_policy=CANARY)
    high = write_adapter(tmp_path / "high", rank=32)
    with pytest.raises(errors.InvalidArgument) as caught:
        await world.register_adapter("m", "x", high)
    assert caught.value.reason is errors.Reason.ADAPTER_RANK_TOO_HIGH
    for _ in range(2):
        await carry_on(world, Fleet())
    await world.register_adapter("m", "x", high)


async def test_the_rollout_of_a_deleted_model_waits_for_its_undeletion(world: World) -> None:
    await register(world, 1)
    await register(world, 2)
    await world.delete_model("m")
    await carry_on(world, Fleet())
    await world.registry.UndeleteModel(registry_service_pb2.UndeleteModelRequest(name="models/m"), NO_CONTEXT)
    assert (await entry(world)).candidate_percent == 10
    await carry_on(world, Fleet())
    assert (await entry(world)).candidate_percent == 50


async def test_an_undeleted_canary_has_the_whole_time_of_its_step_again(world: World) -> None:
    policy = rollout_pb2.RolloutPolicy()
    policy.CopyFrom(CANARY)
    policy.health_timeout.seconds = 1
    await register(world, 1, policy)
    await register(world, 2, policy)
    begun = (await get(world)).rollout.update_time.ToDatetime(tzinfo=UTC)
    await world.delete_model("m")
    await world.registry.UndeleteModel(registry_service_pb2.UndeleteModelRequest(name="models/m"), NO_CONTEXT)
    undeleted = (await get(world)).update_time.ToDatetime(tzinfo=UTC)
    assert undeleted - begun >= timedelta(seconds=1)
    silent = Fleet(status_pb2.RESOURCE_STATE_UNSPECIFIED)
    await carry_on(world, silent, undeleted)
    assert (await entry(world)).candidate_percent == 10
    await carry_on(world, silent, undeleted + timedelta(seconds=1))
    assert (await get(world)).rollout.reason == "HEALTH_TIMEOUT"


async def test_a_card_changed_during_a_rollout_leaves_it_at_its_step(world: World) -> None:
    await register(world, 1)
    await register(world, 2)
    await carry_on(world, Fleet())
    await world.register_model(
        "m", spec(scaling={"minReplicas": 2}), rollout_policy=CANARY, card=model_pb2.ModelCard(display_name="Pirate")
    )
    sent = await entry(world)
    assert (sent.candidate.number, sent.candidate.card.display_name, sent.candidate_percent) == (3, "Pirate", 50)
    await carry_on(world, Fleet())
    assert (await get(world)).rollout.state == rollout_pb2.Rollout.STATE_COMPLETE


async def test_a_policy_changed_to_replace_during_a_rollout_reverts_nothing(world: World) -> None:
    await register(world, 1)
    await register(world, 2)
    await register(world, 2, rollout_pb2.RolloutPolicy(strategy=rollout_pb2.RolloutPolicy.STRATEGY_REPLACE))
    await carry_on(world, Fleet(status_pb2.RESOURCE_STATE_DEPLOYING))
    sent = await entry(world)
    assert (sent.revision.number, sent.revision.spec.scaling.min_replicas) == (2, 2)
    assert not sent.HasField("candidate")


async def test_a_new_policy_alone_makes_no_model_revision(world: World) -> None:
    await world.register_model("m")
    answer = await world.register_model("m", rollout_policy=CANARY)
    assert (answer.created, answer.catalog_revision) == (False, 2)
    assert (await get(world)).rollout_policy.steps[1].percent == 50
    again = await world.register_model("m", rollout_policy=CANARY)
    assert again.catalog_revision == 2
