"""Faults of the control plane itself: what callers learn of them, what is logged, and health."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from broadsheet.v1 import (
    adapter_pb2,
    api_key_pb2,
    enrollment_pb2,
    fleet_service_pb2,
    model_pb2,
    registry_service_pb2,
    rollout_pb2,
    route_pb2,
    snapshot_service_pb2,
    warming_pb2,
    waves_pb2,
)
from controlplane.rpc.server import SERVICES, Server
from tests.access import everybody_is_admin
from tests.stream.registry_plane import ControlPlane, model_request, refusal, registry_plane

SECRET = "postgresql://user:password@host"


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with registry_plane(tmp_path) as plane:
        yield plane


async def test_a_failing_database_is_unavailable_and_its_error_is_not_shown(plane: ControlPlane) -> None:
    def fail(connection: object, cursor: object, statement: str, *_: object) -> None:
        raise OperationalError(statement, {}, Exception(SECRET))

    event.listen(Engine, "before_cursor_execute", fail)
    try:
        with capture_logs() as logs:
            refused = await refusal(plane.registry.RegisterModel(model_request()))
    finally:
        event.remove(Engine, "before_cursor_execute", fail)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert SECRET not in refused.message
    (entry,) = [entry for entry in logs if entry["event"] == "rpc_unavailable"]
    assert SECRET in str(entry["exc_info"])
    await plane.registry.RegisterModel(model_request())


class _Faulty:
    """Servicers whose every method raises an unexpected exception."""

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


async def test_the_text_of_an_unexpected_exception_reaches_no_caller() -> None:
    faulty: Any = _Faulty()
    server = Server(message_bytes_max=1024 * 1024, streams_max=100, admit=everybody_is_admin)
    server.add(faulty, faulty, faulty)
    address = await server.start("127.0.0.1:0")
    assert len(_every_method()) >= 15
    async with grpc.aio.insecure_channel(address) as channel:
        for path, method in _every_method():
            with capture_logs() as logs:
                refused = await refusal(_raw_call(channel, path, streaming=method.client_streaming))
            assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL"), path
            assert SECRET not in repr(refused)
            (entry,) = [entry for entry in logs if entry["event"] == "rpc_failed"]
            assert entry["error_id"] == refused.metadata["errorId"]
            assert entry["error_id"] in refused.message
            assert entry["method"] == path
    await server.stop(0)


def _raw_call(channel: grpc.aio.Channel, path: str, *, streaming: bool) -> Awaitable[Any]:
    """A call of any method with a valid request."""
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
        "RemoveDataPlane": fleet_service_pb2.RemoveDataPlaneRequest(name="dataPlanes/d"),
        "EnrollDataPlane": enrollment_pb2.EnrollDataPlaneRequest(name="dataPlanes/d"),
        "RedeemEnrollment": enrollment_pb2.RedeemEnrollmentRequest(name="dataPlanes/d", credential_hash=bytes(32)),
        "SetFleetPolicy": waves_pb2.SetFleetPolicyRequest(policy=waves_pb2.FleetPolicy()),
    }
    request = requests.get(path.rpartition("/")[2])
    return bytes(request.SerializeToString()) if request is not None else b""


async def test_health_and_reflection_know_every_service(plane: ControlPlane) -> None:
    health: Any = health_pb2_grpc.HealthStub(plane.channel)
    for service in ("", *SERVICES):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    # The stubs accept only the channel of the synchronous API.
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(cast(grpc.Channel, plane.channel))
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = await _first(reflection.ServerReflectionInfo(iter([request])))
    listed = {service.name for service in answer.list_services_response.service}
    assert listed >= {*SERVICES, "grpc.health.v1.Health"}


async def test_the_health_of_an_unknown_service_is_not_found(plane: ControlPlane) -> None:
    health: Any = health_pb2_grpc.HealthStub(plane.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_refusals_are_logged_once_and_without_a_traceback(plane: ControlPlane) -> None:
    with capture_logs() as logs:
        await refusal(plane.registry.GetModel(registry_service_pb2.GetModelRequest(name="models/m")))
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("rpc_refused", "MODEL_NOT_FOUND")]
