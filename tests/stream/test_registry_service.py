"""RegistryService and the unary RPCs of SnapshotService: what they answer, and what they refuse."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from broadsheet.v1 import (
    registry_service_pb2,
    snapshot_service_pb2,
)
from tests.adapter_directories import lora_shapes, write_adapter, write_base
from tests.registry_world import spec
from tests.stream.registry_plane import ControlPlane, adapter_request, model_request, refusal, registry_plane


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with registry_plane(tmp_path) as plane:
        yield plane


async def test_every_rpc_answers(plane: ControlPlane, tmp_path: Path) -> None:
    registry, snapshots = plane.registry, plane.snapshots
    directory = write_adapter(tmp_path / "lora")
    registered = await registry.RegisterModel(model_request(labels={"team": "a"}))
    assert (registered.created, registered.catalog_revision) == (True, 1)
    assert (await registry.GetModel(registry_service_pb2.GetModelRequest(name="models/m"))).model == registered.model
    assert (await registry.ListModels(registry_service_pb2.ListModelsRequest())).models == [registered.model]
    revisions = await registry.ListModelRevisions(registry_service_pb2.ListModelRevisionsRequest(parent="models/m"))
    assert revisions.revisions == [registered.model.revision]
    adapter = await registry.RegisterAdapter(adapter_request(directory))
    assert (adapter.created, adapter.catalog_revision, adapter.adapter.served_name) == (True, 2, "m:a")
    name = "models/m/adapters/a"
    assert (await registry.GetAdapter(registry_service_pb2.GetAdapterRequest(name=name))).adapter == adapter.adapter
    listed = await registry.ListAdapters(registry_service_pb2.ListAdaptersRequest(parent="models/m"))
    assert listed.adapters == [adapter.adapter]
    fetched = await snapshots.FetchSnapshot(snapshot_service_pb2.FetchSnapshotRequest())
    assert [entry.ref.name for entry in fetched.entries] == ["models/m", name]
    deleted = await registry.DeleteAdapter(registry_service_pb2.DeleteAdapterRequest(name=name))
    assert deleted.catalog_revision == 3
    gone = await registry.DeleteModel(registry_service_pb2.DeleteModelRequest(name="models/m"))
    assert gone.catalog_revision == 4
    history = await snapshots.ListSnapshots(snapshot_service_pb2.ListSnapshotsRequest())
    assert [summary.method for summary in history.snapshots] == [
        "DeleteModel",
        "DeleteAdapter",
        "RegisterAdapter",
        "RegisterModel",
        "",
    ]
    old = await snapshots.FetchSnapshot(snapshot_service_pb2.FetchSnapshotRequest(revision=2))
    assert list(old.entries) == list(fetched.entries)


async def test_missing_resources_are_not_found(plane: ControlPlane) -> None:
    registry, name = plane.registry, "models/m/adapters/a"
    for call, reason in (
        (registry.GetModel(registry_service_pb2.GetModelRequest(name="models/m")), "MODEL_NOT_FOUND"),
        (
            registry.ListModelRevisions(registry_service_pb2.ListModelRevisionsRequest(parent="models/m")),
            "MODEL_NOT_FOUND",
        ),
        (registry.DeleteModel(registry_service_pb2.DeleteModelRequest(name="models/m")), "MODEL_NOT_FOUND"),
        (registry.ListAdapters(registry_service_pb2.ListAdaptersRequest(parent="models/m")), "MODEL_NOT_FOUND"),
        (registry.GetAdapter(registry_service_pb2.GetAdapterRequest(name=name)), "ADAPTER_NOT_FOUND"),
        (registry.DeleteAdapter(registry_service_pb2.DeleteAdapterRequest(name=name)), "ADAPTER_NOT_FOUND"),
        (
            plane.snapshots.FetchSnapshot(snapshot_service_pb2.FetchSnapshotRequest(revision=1)),
            "REVISION_NOT_FOUND",
        ),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, reason)


async def test_a_taken_served_name_is_refused(plane: ControlPlane, tmp_path: Path) -> None:
    await plane.registry.RegisterModel(model_request("m", served_name="x"))
    for call in (
        plane.registry.RegisterModel(model_request("n", served_name="x")),
        plane.registry.RegisterAdapter(adapter_request(write_adapter(tmp_path / "a"), served_name="x")),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "SERVED_NAME_TAKEN")
        assert refused.metadata == {"servedName": "x", "holder": "models/m"}
        assert list(refused.fields) == ["served_name"]
    assert await plane.world.revision() == 1


async def test_a_model_with_adapters_is_not_deleted_and_must_keep_serving_them(
    plane: ControlPlane, tmp_path: Path
) -> None:
    await plane.registry.RegisterModel(model_request())
    await plane.registry.RegisterAdapter(adapter_request(write_adapter(tmp_path / "a", rank=16)))
    refused = await refusal(plane.registry.DeleteModel(registry_service_pb2.DeleteModelRequest(name="models/m")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_HAS_ADAPTERS")
    refused = await refusal(plane.registry.RegisterModel(model_request(spec=spec(lora={"maxRank": 8}))))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ADAPTERS_WOULD_NOT_FIT")
    assert "models/m/adapters/a" in refused.fields["spec.lora"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("other base", "ADAPTER_BASE_MISMATCH"),
        ("rank", "ADAPTER_RANK_TOO_HIGH"),
        ("truncated", "ADAPTER_FILES_INVALID"),
        ("missing", "ADAPTER_SOURCE_MISSING"),
        ("modules to save", "ADAPTER_UNSUPPORTED"),
        ("hub", "UNSUPPORTED_SOURCE"),
        ("too large", "ADAPTER_TOO_LARGE"),
    ],
)
async def test_wrong_adapters_are_refused_and_nothing_is_written(
    plane: ControlPlane, tmp_path: Path, kind: str, reason: str
) -> None:
    base = write_base(tmp_path / "base")
    await plane.registry.RegisterModel(model_request(spec=spec(source={"uri": f"file://{base}"})))
    directory = tmp_path / "lora"
    wide = lora_shapes(modules={"self_attn.q_proj": (32, 32)})
    write_adapter(
        directory,
        rank=32 if kind == "rank" else 4,
        shapes=wide if kind == "other base" else None,
        modules_to_save=["lm_head"] if kind == "modules to save" else None,
    )
    weights = directory / "adapter_model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif kind == "missing":
        weights.unlink()
    elif kind == "too large":
        weights.write_bytes(b"\0" * 1024 * 1024)
    request = adapter_request(directory)
    if kind == "hub":
        request.source.uri = "hf://org/name"
    refused = await refusal(plane.registry.RegisterAdapter(request))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert list(refused.fields) == ["source.uri"]
    assert await plane.world.revision() == 1


async def test_files_that_change_while_they_are_read_abort(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plane.registry.RegisterModel(model_request())
    directory = write_adapter(tmp_path / "lora")
    real_sha256 = hashlib.sha256

    def change_then_hash(content: bytes = b"") -> object:
        with (directory / "adapter_config.json").open("a") as file:
            file.write(" ")
        return real_sha256(content)

    monkeypatch.setattr(hashlib, "sha256", change_then_hash)
    refused = await refusal(plane.registry.RegisterAdapter(adapter_request(directory)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "ADAPTER_FILES_CHANGED")


async def test_a_full_catalog_refuses_registrations(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.catalog.snapshot.ENTRIES_MAX", 0)
    refused = await refusal(plane.registry.RegisterModel(model_request()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CATALOG_FULL")


async def test_a_repeat_is_answered_with_the_same_bytes(plane: ControlPlane) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = plane.channel.unary_unary(
        "/broadsheet.v1.RegistryService/RegisterModel"
    )
    labels = {f"key{index}": str(index) for index in range(64)}
    request = model_request(labels=labels, request_id=str(uuid.uuid4())).SerializeToString()
    first = await call(request)
    assert registry_service_pb2.RegisterModelResponse.FromString(first).created
    assert [await call(request) for _ in range(5)] == [first] * 5
