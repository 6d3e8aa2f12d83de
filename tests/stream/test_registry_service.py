"""RegistryService and the unary RPCs of SnapshotService, through a real server."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships no stubs
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from broadsheet.v1 import (
    adapter_pb2,
    api_key_pb2,
    fleet_service_pb2,
    model_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
    rollout_pb2,
    route_pb2,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
    warming_pb2,
)
from controlplane.fleet.fleet import fleet_of
from controlplane.push.chunks import ChunkCache
from controlplane.push.fan_out import FanOut
from controlplane.push.sync import SyncHandler
from controlplane.rpc.handlers.registry import Registry
from controlplane.rpc.server import SERVICES, Server
from controlplane.rpc.servicers import FleetServicer, RegistryServicer, SnapshotServicer
from tests.access import everybody_is_admin
from tests.adapter_directories import lora_shapes, write_adapter, write_base
from tests.registry_world import START, World, open_world, spec

SECRET = "postgresql://user:password@host"


@dataclass(frozen=True)
class ControlPlane:
    """A control plane in this process, and a client of it."""

    world: World
    address: str
    channel: grpc.aio.Channel
    registry: registry_service_pb2_grpc.RegistryServiceAsyncStub
    snapshots: snapshot_service_pb2_grpc.SnapshotServiceAsyncStub


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with open_world(f"sqlite+aiosqlite:///{tmp_path}/registry.db", tmp_path) as world:
        fleet = fleet_of(world.store, head=await world.store.head())
        fan_out = FanOut(fleet, now=lambda: START)
        world.store.commits.subscribe(fan_out.publish)
        server = Server(message_bytes_max=4 * 1024 * 1024, streams_max=100, admit=everybody_is_admin)
        registry = Registry(store=world.store, adapter_verifier=world.verifier, resource_statuses=fleet.statuses.of)
        sync = SyncHandler(fan_out, ChunkCache(world.store))
        server.add(RegistryServicer(registry), SnapshotServicer(registry, sync), FleetServicer(world.store, fleet))
        address = await server.start("127.0.0.1:0")
        async with grpc.aio.insecure_channel(address) as channel:
            yield ControlPlane(
                world=world,
                address=address,
                channel=channel,
                registry=registry_service_pb2_grpc.RegistryServiceStub(channel),
                snapshots=snapshot_service_pb2_grpc.SnapshotServiceStub(channel),
            )
        await server.stop(0)


@dataclass(frozen=True)
class Refusal:
    """What a caller learns from an error."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: dict[str, str]
    fields: dict[str, str]


async def refusal(call: Awaitable[Any]) -> Refusal:
    """The error that `call` ends with, its details taken apart."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    # It reads code, details and trailers, which every error of a call has; the types do not say so.
    status = rpc_status.from_call(cast(grpc.Call, error))
    assert status is not None, "every error carries details"
    reason, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        assert detail.Unpack(reason) or detail.Unpack(request)
    return Refusal(
        code=error.code(),
        message=error.details() or "",
        reason=reason.reason,
        domain=reason.domain,
        metadata=dict(reason.metadata),
        fields={violation.field: violation.description for violation in request.field_violations},
    )


def model_request(model_id: str = "m", **fields: Any) -> registry_service_pb2.RegisterModelRequest:
    return registry_service_pb2.RegisterModelRequest(**{"model_id": model_id, "spec": spec(), **fields})


def adapter_request(directory: Path, **fields: Any) -> registry_service_pb2.RegisterAdapterRequest:
    source = model_pb2.Source(uri=f"file://{directory}")
    return registry_service_pb2.RegisterAdapterRequest(
        **{"parent": "models/m", "adapter_id": "a", "source": source, **fields}
    )


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
        ({"labels": {f"k{index}": "" for index in range(65)}}, "labels"),
    ],
)
async def test_wrong_fields_of_a_model_are_named_and_nothing_is_written(
    plane: ControlPlane, request_fields: dict[str, Any], field: str
) -> None:
    told = await refusal(plane.registry.RegisterModel(model_request(**request_fields)))
    assert told.code == grpc.StatusCode.INVALID_ARGUMENT
    assert told.domain == "broadsheet"
    assert field in told.fields
    assert field in told.message
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
    told = await refusal(getattr(plane.registry, call)(request_))
    assert told.code == grpc.StatusCode.INVALID_ARGUMENT
    assert field in told.fields


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [(0, 1), (0, 999_999_999), (1, -500_000_000), (-1, 0), (604_801, 0), (2**63 - 1, 0), (-(2**63), 0)],
)
async def test_warming_for_a_time_that_is_not_allowed_is_refused(plane: ControlPlane, seconds: int, nanos: int) -> None:
    duration = duration_pb2.Duration(seconds=seconds, nanos=nanos)
    request = warming_pb2.WarmModelRequest(name="models/m", duration=duration)
    told = await refusal(plane.registry.WarmModel(request))
    assert told.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(told.fields) == ["duration"]


async def test_wrong_fields_of_snapshot_rpcs_are_named(plane: ControlPlane) -> None:
    fetch = snapshot_service_pb2.FetchSnapshotRequest(revision=-1)
    assert "revision" in (await refusal(plane.snapshots.FetchSnapshot(fetch))).fields
    listing = snapshot_service_pb2.ListSnapshotsRequest(page_size=-1)
    assert "page_size" in (await refusal(plane.snapshots.ListSnapshots(listing))).fields


async def test_many_wrong_fields_still_fit_into_one_answer(plane: ControlPlane) -> None:
    labels = {f"{'é' * 20}{index}": "x" * 300 for index in range(64)}
    told = await refusal(plane.registry.RegisterModel(model_request(model_id="", labels=labels)))
    assert told.code == grpc.StatusCode.INVALID_ARGUMENT
    assert len(told.fields) > 5


async def test_what_is_not_there_is_not_found(plane: ControlPlane) -> None:
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
        told = await refusal(call)
        assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, reason)


async def test_taken_served_name(plane: ControlPlane, tmp_path: Path) -> None:
    await plane.registry.RegisterModel(model_request("m", served_name="x"))
    for call in (
        plane.registry.RegisterModel(model_request("n", served_name="x")),
        plane.registry.RegisterAdapter(adapter_request(write_adapter(tmp_path / "a"), served_name="x")),
    ):
        told = await refusal(call)
        assert (told.code, told.reason) == (grpc.StatusCode.ALREADY_EXISTS, "SERVED_NAME_TAKEN")
        assert told.metadata == {"servedName": "x", "holder": "models/m"}
        assert list(told.fields) == ["served_name"]
    assert await plane.world.revision() == 1


async def test_model_in_use(plane: ControlPlane, tmp_path: Path) -> None:
    await plane.registry.RegisterModel(model_request())
    await plane.registry.RegisterAdapter(adapter_request(write_adapter(tmp_path / "a", rank=16)))
    told = await refusal(plane.registry.DeleteModel(registry_service_pb2.DeleteModelRequest(name="models/m")))
    assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_HAS_ADAPTERS")
    told = await refusal(plane.registry.RegisterModel(model_request(spec=spec(lora={"maxRank": 8}))))
    assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ADAPTERS_WOULD_NOT_FIT")
    assert "models/m/adapters/a" in told.fields["spec.lora"]


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
    told = await refusal(plane.registry.RegisterAdapter(request))
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert list(told.fields) == ["source.uri"]
    assert await plane.world.revision() == 1


async def test_files_that_change_abort(plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await plane.registry.RegisterModel(model_request())
    directory = write_adapter(tmp_path / "lora")
    real_sha256 = hashlib.sha256

    def change_then_hash(content: bytes = b"") -> object:
        with (directory / "adapter_config.json").open("a") as file:
            file.write(" ")
        return real_sha256(content)

    monkeypatch.setattr(hashlib, "sha256", change_then_hash)
    told = await refusal(plane.registry.RegisterAdapter(adapter_request(directory)))
    assert (told.code, told.reason) == (grpc.StatusCode.ABORTED, "ADAPTER_FILES_CHANGED")


async def test_full_catalog(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.catalog.snapshot.ENTRIES_MAX", 0)
    told = await refusal(plane.registry.RegisterModel(model_request()))
    assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CATALOG_FULL")


async def test_failing_database_is_unavailable_and_says_nothing_of_itself(plane: ControlPlane) -> None:
    def fail(connection: object, cursor: object, statement: str, *_: object) -> None:
        raise OperationalError(statement, {}, Exception(SECRET))

    event.listen(Engine, "before_cursor_execute", fail)
    try:
        with capture_logs() as logs:
            told = await refusal(plane.registry.RegisterModel(model_request()))
    finally:
        event.remove(Engine, "before_cursor_execute", fail)
    assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert SECRET not in told.message
    (entry,) = [entry for entry in logs if entry["event"] == "rpc_unavailable"]
    assert SECRET in str(entry["exc_info"])
    await plane.registry.RegisterModel(model_request())


class _Faulty:
    """Servicers that fail in a way nobody thought of, at every method."""

    def __getattr__(self, name: str) -> Callable[[Any, Any], Awaitable[Any]]:
        async def fail(request: Any, context: Any) -> Any:
            raise RuntimeError(SECRET)

        return fail


def _every_method() -> list[tuple[str, Any]]:
    files = (registry_service_pb2, snapshot_service_pb2, fleet_service_pb2)
    return [
        (f"/{service.full_name}/{method.name}", method)
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


async def test_nothing_of_an_unknown_exception_leaves_any_rpc() -> None:
    faulty: Any = _Faulty()
    server = Server(message_bytes_max=1024 * 1024, streams_max=100, admit=everybody_is_admin)
    server.add(faulty, faulty, faulty)
    address = await server.start("127.0.0.1:0")
    assert len(_every_method()) >= 15
    async with grpc.aio.insecure_channel(address) as channel:
        for path, method in _every_method():
            with capture_logs() as logs:
                told = await refusal(_raw_call(channel, path, streaming=method.client_streaming))
            assert (told.code, told.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL"), path
            assert SECRET not in repr(told)
            (entry,) = [entry for entry in logs if entry["event"] == "rpc_failed"]
            assert entry["error_id"] == told.metadata["errorId"]
            assert entry["error_id"] in told.message
            assert entry["method"] == path
    await server.stop(0)


def _raw_call(channel: grpc.aio.Channel, path: str, *, streaming: bool) -> Awaitable[Any]:
    """A call of any method with a request that its rules let pass."""
    request = _valid(path)
    if streaming:
        stream: Any = channel.stream_stream(path, bytes, bytes)
        return _first(stream(iter([request])))
    unary: Any = channel.unary_unary(path, bytes, bytes)
    return cast(Awaitable[Any], unary(request))


async def _first(stream: Any) -> Any:
    async for response in stream:
        return response


def _valid(path: str) -> bytes:
    """A serialised request that breaks no rule."""
    adapter = "models/m/adapters/a"
    source = model_pb2.Source(uri="file:///a")
    requests: dict[str, Any] = {
        "RegisterModel": model_request(),
        "GetModel": registry_service_pb2.GetModelRequest(name="models/m"),
        "ListModelRevisions": registry_service_pb2.ListModelRevisionsRequest(parent="models/m"),
        "DeleteModel": registry_service_pb2.DeleteModelRequest(name="models/m"),
        "RegisterAdapter": registry_service_pb2.RegisterAdapterRequest(
            parent="models/m", adapter_id="a", source=source
        ),
        "GetAdapter": registry_service_pb2.GetAdapterRequest(name=adapter),
        "ListAdapters": registry_service_pb2.ListAdaptersRequest(parent="models/-"),
        "DeleteAdapter": registry_service_pb2.DeleteAdapterRequest(name=adapter),
        "UpdateModel": registry_service_pb2.UpdateModelRequest(
            model=model_pb2.Model(name="models/m", labels={"a": "b"})
        ),
        "RollbackModel": registry_service_pb2.RollbackModelRequest(name="models/m", revision_number=1),
        "UndeleteModel": registry_service_pb2.UndeleteModelRequest(name="models/m"),
        "ListAdapterRevisions": registry_service_pb2.ListAdapterRevisionsRequest(parent=adapter),
        "UpdateAdapter": registry_service_pb2.UpdateAdapterRequest(
            adapter=adapter_pb2.Adapter(name=adapter, labels={"a": "b"})
        ),
        "RollbackAdapter": registry_service_pb2.RollbackAdapterRequest(name=adapter, revision_number=1),
        "UndeleteAdapter": registry_service_pb2.UndeleteAdapterRequest(name=adapter),
        "ControlRollout": rollout_pb2.ControlRolloutRequest(
            name="models/m", action=rollout_pb2.ControlRolloutRequest.ACTION_PAUSE
        ),
        "WarmModel": warming_pb2.WarmModelRequest(name="models/m"),
        "SetRoute": route_pb2.SetRouteRequest(
            route_id="r", spec=route_pb2.RouteSpec(targets=[route_pb2.RouteTarget(resource="models/m")])
        ),
        "GetRoute": route_pb2.GetRouteRequest(name="routes/r"),
        "ListRouteRevisions": route_pb2.ListRouteRevisionsRequest(parent="routes/r"),
        "DeleteRoute": route_pb2.DeleteRouteRequest(name="routes/r"),
        "CreateApiKey": api_key_pb2.CreateApiKeyRequest(
            api_key_id="k", limits=api_key_pb2.ApiKeyLimits(allowed_served_names=["*"])
        ),
        "GetApiKey": api_key_pb2.GetApiKeyRequest(name="apiKeys/k"),
        "RevokeApiKey": api_key_pb2.RevokeApiKeyRequest(name="apiKeys/k"),
        "GetDataPlane": fleet_service_pb2.GetDataPlaneRequest(name="dataPlanes/d"),
    }
    request = requests.get(path.rpartition("/")[2])
    return bytes(request.SerializeToString()) if request is not None else b""


async def test_health_and_reflection_know_every_service(plane: ControlPlane) -> None:
    health: Any = health_pb2_grpc.HealthStub(plane.channel)
    for service in ("", *SERVICES):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    # The stubs know only the channel of the other API.
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(cast(grpc.Channel, plane.channel))
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = await _first(reflection.ServerReflectionInfo(iter([request])))
    listed = {service.name for service in answer.list_services_response.service}
    assert listed >= {*SERVICES, "grpc.health.v1.Health"}


async def test_unknown_service_health_is_answered_by_the_library(plane: ControlPlane) -> None:
    health: Any = health_pb2_grpc.HealthStub(plane.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_refusals_are_logged_once_and_without_a_traceback(plane: ControlPlane) -> None:
    with capture_logs() as logs:
        await refusal(plane.registry.GetModel(registry_service_pb2.GetModelRequest(name="models/m")))
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("rpc_refused", "MODEL_NOT_FOUND")]


async def test_a_repeat_is_answered_with_the_same_bytes(plane: ControlPlane) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = plane.channel.unary_unary(
        "/broadsheet.v1.RegistryService/RegisterModel"
    )
    labels = {f"key{index}": str(index) for index in range(64)}
    request = model_request(labels=labels, request_id=str(uuid.uuid4())).SerializeToString()
    first = await call(request)
    assert registry_service_pb2.RegisterModelResponse.FromString(first).created
    assert [await call(request) for _ in range(5)] == [first] * 5


@pytest.mark.parametrize("request_id", ["x", "00000000-0000-1000-8000-000000000000", "a" * 36])
async def test_a_request_id_that_is_no_uuid4_is_refused(plane: ControlPlane, request_id: str) -> None:
    refused = await refusal(plane.registry.RegisterModel(model_request(request_id=request_id)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert set(refused.fields) == {"request_id"}
