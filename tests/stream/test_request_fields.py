"""Requests that break a rule: the error names each wrong field, and nothing is written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2

from broadsheet.v1 import (
    model_pb2,
    registry_service_pb2,
    snapshot_service_pb2,
    warming_pb2,
)
from tests.registry_world import spec
from tests.stream.registry_plane import ControlPlane, model_request, refusal, registry_plane


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with registry_plane(tmp_path) as plane:
        yield plane


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"model_id": ""}, "model_id"),
        ({"model_id": "x" * 64}, "model_id"),
        ({"model_id": "Upper"}, "model_id"),
        ({"model_id": "-x"}, "model_id"),
        ({"model_id": "x\n"}, "model_id"),
        ({"served_name": "a b"}, "served_name"),
        ({"served_name": "x" * 257}, "served_name"),
        ({"spec": None}, "spec"),
        ({"spec": spec(scaling={"minReplicas": -1})}, "spec.scaling.min_replicas"),
        ({"spec": spec(scaling={"minReplicas": 3, "maxReplicas": 2})}, "spec.scaling"),
        ({"spec": spec(scaling={"maxReplicas": 0})}, "spec.scaling.max_replicas"),
        ({"spec": spec(scaling={"initialReplicas": 2})}, "spec.scaling"),
        ({"spec": spec(scaling={"downscaleDelay": "-1s"})}, "spec.scaling.downscale_delay"),
        ({"spec": spec(admission={"queueTimeout": "100000s"})}, "spec.admission.queue_timeout"),
        ({"spec": spec(lora={"maxRank": 7})}, "spec.lora.max_rank"),
        ({"spec": spec(source={"uri": "ftp://x"})}, "spec.source.uri"),
        ({"spec": spec(source={"uri": "file:///a/../b"})}, "spec.source.uri"),
        ({"spec": spec(resources={"accelerators": 2})}, "spec.resources.accelerators"),
        (
            {"spec": spec(source={"uri": "file:///m"}, engine={"args": {"port": 1}})},
            'spec.engine.args["port"]',
        ),
        ({"spec": spec(engine={"kind": "KIND_SIMULATED", "args": {"--x": 1}})}, 'spec.engine.args["--x"]'),
        ({"spec": model_pb2.ModelSpec()}, "spec.source"),
        ({"labels": {"": "x"}}, 'labels[""]'),
        ({"labels": {"a": "x" * 257}}, 'labels["a"]'),
        ({"labels": {"a": "x\0"}}, 'labels["a"]'),
        ({"card": model_pb2.ModelCard(description="x\0")}, "card.description"),
        ({"labels": {f"k{index}": "" for index in range(65)}}, "labels"),
    ],
)
async def test_wrong_fields_of_a_model_are_named_and_nothing_is_written(
    plane: ControlPlane, request_fields: dict[str, Any], field: str
) -> None:
    refused = await refusal(plane.registry.RegisterModel(model_request(**request_fields)))
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.domain == "broadsheet"
    assert field in refused.fields
    assert field in refused.message
    assert await plane.world.revision() == 0


@pytest.mark.parametrize(
    ("call", "request_", "field"),
    [
        ("GetModel", registry_service_pb2.GetModelRequest(name="m"), "name"),
        ("ListModels", registry_service_pb2.ListModelsRequest(page_size=-1), "page_size"),
        ("ListModels", registry_service_pb2.ListModelsRequest(page_token="x"), "page_token"),
        ("ListModelRevisions", registry_service_pb2.ListModelRevisionsRequest(parent="models/"), "parent"),
        ("DeleteModel", registry_service_pb2.DeleteModelRequest(), "name"),
        ("RegisterAdapter", registry_service_pb2.RegisterAdapterRequest(adapter_id="a"), "parent"),
        ("GetAdapter", registry_service_pb2.GetAdapterRequest(name="models/m"), "name"),
        ("ListAdapters", registry_service_pb2.ListAdaptersRequest(parent="-"), "parent"),
        ("DeleteAdapter", registry_service_pb2.DeleteAdapterRequest(name="models/m/adapters/"), "name"),
    ],
)
async def test_wrong_fields_of_every_rpc_are_named(plane: ControlPlane, call: str, request_: Any, field: str) -> None:
    refused = await refusal(getattr(plane.registry, call)(request_))
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
    assert field in refused.fields


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [(0, 1), (0, 999_999_999), (1, -500_000_000), (-1, 0), (604_801, 0), (2**63 - 1, 0), (-(2**63), 0)],
)
async def test_warming_for_a_duration_that_is_not_allowed_is_refused(
    plane: ControlPlane, seconds: int, nanos: int
) -> None:
    duration = duration_pb2.Duration(seconds=seconds, nanos=nanos)
    request = warming_pb2.WarmModelRequest(name="models/m", duration=duration)
    refused = await refusal(plane.registry.WarmModel(request))
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(refused.fields) == ["duration"]


async def test_wrong_fields_of_snapshot_rpcs_are_named(plane: ControlPlane) -> None:
    fetch = snapshot_service_pb2.FetchSnapshotRequest(revision=-1)
    assert "revision" in (await refusal(plane.snapshots.FetchSnapshot(fetch))).fields
    listing = snapshot_service_pb2.ListSnapshotsRequest(page_size=-1)
    assert "page_size" in (await refusal(plane.snapshots.ListSnapshots(listing))).fields


async def test_many_wrong_fields_still_fit_into_one_answer(plane: ControlPlane) -> None:
    labels = {f"{'é' * 20}{index}": "x" * 300 for index in range(64)}
    refused = await refusal(plane.registry.RegisterModel(model_request(model_id="", labels=labels)))
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
    assert len(refused.fields) > 5


@pytest.mark.parametrize("request_id", ["x", "00000000-0000-1000-8000-000000000000", "a" * 36])
async def test_a_request_id_that_is_not_a_uuid4_is_refused(plane: ControlPlane, request_id: str) -> None:
    refused = await refusal(plane.registry.RegisterModel(model_request(request_id=request_id)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert set(refused.fields) == {"request_id"}
