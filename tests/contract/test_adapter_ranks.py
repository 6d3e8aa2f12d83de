"""Every revision of an adapter that may be served has a rank that its model serves."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from broadsheet.v1 import model_pb2, rollback_pb2, rollout_pb2, route_pb2
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import errors
from controlplane.rpc.handlers import consistency
from tests.adapter_directories import BASE_SHAPES, write_adapter, write_base
from tests.contract.resource_calls import rollback_adapter, rollback_model, undelete_adapter
from tests.registry_world import NO_CONTEXT, World, spec

CANARY = rollout_pb2.RolloutPolicy(
    strategy=rollout_pb2.RolloutPolicy.STRATEGY_CANARY, steps=[rollout_pb2.CanaryStep(percent=10)]
)
PINNED = "models/m/adapters/a/revisions/1"


async def pin(world: World, resource: str = PINNED) -> None:
    request = route_pb2.SetRouteRequest(
        route_id="r", spec=route_pb2.RouteSpec(targets=[route_pb2.RouteTarget(resource=resource)])
    )
    await world.registry.SetRoute(request, NO_CONTEXT)


async def pinned_high_and_current_low(world: World, directory: Path) -> None:
    """Model m serves rank 32. A route pins revision 1 of its adapter, of rank 32; 2 has rank 4."""
    await world.register_model("m", spec(lora={"maxRank": 8}))
    await world.register_model("m", spec(lora={"maxRank": 32}))
    await world.register_adapter("m", "a", write_adapter(directory / "high", rank=32))
    await world.register_adapter("m", "a", write_adapter(directory / "low", rank=4))
    await pin(world)


async def refused_fields(call: Awaitable[Any]) -> list[str]:
    """The fields of the refusal, which is about ranks."""
    with pytest.raises(errors.DomainError) as caught:
        await call
    assert caught.value.reason in (errors.Reason.ADAPTERS_WOULD_NOT_FIT, errors.Reason.ADAPTER_RANK_TOO_HIGH)
    assert "rank 32" in caught.value.message
    return [violation.field for violation in caught.value.violations]


def without_lora() -> model_pb2.ModelSpec:
    result = spec()
    result.ClearField("lora")
    return result


async def test_a_lower_max_rank_is_refused_while_a_route_pins_a_higher_adapter_revision(
    world: World, tmp_path: Path
) -> None:
    await pinned_high_and_current_low(world, tmp_path)
    low = spec(lora={"maxRank": 8})
    before = await world.revision()
    assert await refused_fields(world.register_model("m", low)) == ["spec.lora"]
    assert await refused_fields(world.register_model("m", low, rollout_policy=CANARY)) == ["spec.lora"]
    assert await refused_fields(world.register_model("m", without_lora())) == ["spec.lora"]
    assert await refused_fields(rollback_model(world, 1)) == ["revision_number"]
    assert await world.revision() == before
    await world.registry.DeleteRoute(route_pb2.DeleteRouteRequest(name="routes/r"), NO_CONTEXT)
    assert (await world.register_model("m", low)).created


async def test_an_adapter_revision_is_pinned_only_if_both_revisions_of_a_rollout_serve_its_rank(
    world: World, tmp_path: Path
) -> None:
    await world.register_model("m", spec(lora={"maxRank": 32}))
    await world.register_adapter("m", "a", write_adapter(tmp_path / "high", rank=32))
    await world.register_adapter("m", "a", write_adapter(tmp_path / "low", rank=4))
    await world.register_model("m", spec(lora={"maxRank": 8}))
    # The revision with more serves a tenth of the requests, and none of those for adapters.
    await world.register_model("m", spec(lora={"maxRank": 32}), rollout_policy=CANARY)
    assert await refused_fields(pin(world)) == ["spec.targets[0].resource"]
    await pin(world, "models/m/adapters/a/revisions/2")


async def test_an_adapter_fits_both_bases_of_a_rollout(world: World, tmp_path: Path) -> None:
    wide = {name: [2 * size for size in shape] for name, shape in BASE_SHAPES.items()}
    before, after = write_base(tmp_path / "before", wide), write_base(tmp_path / "after")
    for base in (before, after):
        await world.register_model("m", spec(source={"uri": base.as_uri()}), rollout_policy=CANARY)
    # Its matrices are those of the new base, and the old one still answers for adapters.
    with pytest.raises(errors.InvalidArgument) as caught:
        await world.register_adapter("m", "a")
    assert caught.value.reason is errors.Reason.ADAPTER_BASE_MISMATCH
    await world.register_model("m", spec(source={"uri": after.as_uri()}), rollout_policy=rollout_pb2.RolloutPolicy())
    await world.register_adapter("m", "a")


async def test_refusals_of_a_rank_name_the_field_that_asks_for_it(world: World, tmp_path: Path) -> None:
    await world.register_model("m", spec(lora={"maxRank": 32}))
    high = write_adapter(tmp_path / "high", rank=32)
    await world.register_adapter("m", "a", high)
    await world.register_adapter("m", "a", write_adapter(tmp_path / "low", rank=4))
    await world.register_adapter("m", "b", high)
    await world.delete_adapter("m", "b")
    await world.register_model("m", spec(lora={"maxRank": 8}))
    assert await refused_fields(rollback_adapter(world, 1)) == ["revision_number"]
    assert await refused_fields(undelete_adapter(world, "models/m/adapters/b")) == ["name"]
    assert await refused_fields(world.register_adapter("m", "a", high)) == ["source.uri"]


async def test_a_deleted_model_comes_back_with_the_ranks_that_it_served(world: World, tmp_path: Path) -> None:
    await pinned_high_and_current_low(world, tmp_path)
    await world.register_model("other")
    await pin(world, "models/other")
    await world.delete_model("m", force=True)
    await world.registry.UndeleteModel(pb.UndeleteModelRequest(name="models/m"), NO_CONTEXT)
    await pin(world)
    assert await refused_fields(world.register_model("m", spec(lora={"maxRank": 8}))) == ["spec.lora"]


async def test_a_catalog_with_a_pinned_rank_that_its_model_does_not_serve_is_not_restored(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.register_model("m", spec(lora={"maxRank": 32}))
    await world.register_adapter("m", "a", write_adapter(tmp_path / "high", rank=32))
    await world.register_adapter("m", "a", write_adapter(tmp_path / "low", rank=4))
    await world.register_model("m", spec(lora={"maxRank": 8}))

    async def earlier_release(*args: object) -> None:
        """Did not compare the rank of a pinned revision with that of a rollout's stable one."""

    with monkeypatch.context() as earlier:
        earlier.setattr(consistency, "check_route_references", earlier_release)
        await pin(world)
    misfit = await world.revision()
    await world.registry.DeleteRoute(route_pb2.DeleteRouteRequest(name="routes/r"), NO_CONTEXT)
    before = await world.revision()
    request = rollback_pb2.RollbackCatalogRequest(to_revision=misfit)
    assert await refused_fields(world.snapshots.RollbackCatalog(request, NO_CONTEXT)) == ["to_revision"]
    assert await world.revision() == before
