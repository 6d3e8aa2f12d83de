"""Every RPC of both clients: its method, deadline, retries, request id and typed errors."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor

from broadsheet import errors
from broadsheet.aio import AsyncClient
from broadsheet.client import Client
from broadsheet.types import Entry, EntryRef, Model, Position
from broadsheet.v1 import (
    fleet_service_pb2,
    registry_service_pb2,
    snapshot_service_pb2,
)
from tests.unit.client.conftest import ScriptedServer, bad_request, error_info

SPEC = {"source": {"uri": "hf://org/name"}}

CALLS: Mapping[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "RegisterModel": ("register_model", ("m",), {"spec": SPEC}),
    "GetModel": ("get_model", ("m",), {}),
    "ListModels": ("list_models", (), {}),
    "ListModelRevisions": ("list_model_revisions", ("m",), {}),
    "DeleteModel": ("delete_model", ("m",), {}),
    "UpdateModel": ("update_model", ("m",), {"served_name": "n"}),
    "RollbackModel": ("rollback_model", ("m", 1), {}),
    "UndeleteModel": ("undelete_model", ("m",), {}),
    "ListAdapterRevisions": ("list_adapter_revisions", ("m/a",), {}),
    "UpdateAdapter": ("update_adapter", ("m/a",), {"served_name": "n"}),
    "RollbackAdapter": ("rollback_adapter", ("m/a", 1), {}),
    "UndeleteAdapter": ("undelete_adapter", ("m/a",), {}),
    "RegisterAdapter": ("register_adapter", ("m", "a"), {"source": "file:///a"}),
    "GetAdapter": ("get_adapter", ("m/a",), {}),
    "ListAdapters": ("list_adapters", (), {}),
    "DeleteAdapter": ("delete_adapter", ("m/a",), {}),
    "ControlRollout": ("control_rollout", ("m", "PAUSE"), {}),
    "WarmModel": ("warm_model", ("m",), {}),
    "SetRoute": ("set_route", ("r",), {"spec": {"targets": [{"resource": "models/m", "weight": 2}]}}),
    "GetRoute": ("get_route", ("r",), {}),
    "ListRoutes": ("list_routes", (), {}),
    "DeleteRoute": ("delete_route", ("r",), {}),
    "ListRouteRevisions": ("list_route_revisions", ("r",), {}),
    "ListAuditEvents": ("list_audit_events", (), {}),
    "DiffSnapshots": ("diff_snapshots", (1,), {}),
    "RollbackCatalog": ("rollback_catalog", (1,), {}),
    "CreateApiKey": ("create_api_key", ("k",), {"allowed_served_names": ["*"], "validate_only": True}),
    "GetApiKey": ("get_api_key", ("k",), {}),
    "ListApiKeys": ("list_api_keys", (), {}),
    "RevokeApiKey": ("revoke_api_key", ("k",), {}),
    "FetchSnapshot": ("fetch_snapshot", (), {}),
    "ListSnapshots": ("list_snapshots", (), {}),
    "ListDataPlanes": ("list_data_planes", (), {}),
    "GetDataPlane": ("get_data_plane", ("local",), {}),
    "WaitForRevision": ("wait_for_revision", (1,), {}),
    "RemoveDataPlane": ("remove_data_plane", ("local",), {}),
    "EnrollDataPlane": ("enroll_data_plane", ("local",), {"validate_only": True}),
    "GetFleetPolicy": ("get_fleet_policy", (), {}),
    "SetFleetPolicy": ("set_fleet_policy", ({"waves": [{"percent": 10}]},), {}),
    "GetFleetRollout": ("get_fleet_rollout", (), {}),
    "HaltFleetRollout": ("halt_fleet_rollout", (), {}),
    "ResumeFleetRollout": ("resume_fleet_rollout", (), {}),
    "ForceFleetRollout": ("force_fleet_rollout", (), {}),
}
"""The method, arguments and options that send each RPC."""

NOT_FOR_CLIENTS = {"Sync", "RedeemEnrollment"}
"""Those of data planes."""

SERVICES: list[ServiceDescriptor] = [
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (registry_service_pb2, "RegistryService"),
        (snapshot_service_pb2, "SnapshotService"),
        (fleet_service_pb2, "FleetService"),
    )
]


def request_id_of(method: str, request: bytes) -> str:
    """The request id in the bytes of a request."""
    types = {found.name: found.input_type for service in SERVICES for found in service.methods}
    message: Any = message_factory.GetMessageClass(types[method]).FromString(request)
    return str(message.request_id)


def call(client: Client, method: str, **more: object) -> object:
    name, arguments, options = CALLS[method]
    result = getattr(client, name)(*arguments, **options, **more)
    return list(result) if inspect.isgenerator(result) else result


async def call_async(client: AsyncClient, method: str, **more: object) -> object:
    name, arguments, options = CALLS[method]
    result = getattr(client, name)(*arguments, **options, **more)
    return [item async for item in result] if inspect.isasyncgen(result) else await result


def test_every_rpc_of_the_api_has_a_client_method() -> None:
    methods = {method.name for service in SERVICES for method in service.methods}
    assert methods - NOT_FOR_CLIENTS == set(CALLS)


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    def public(cls: type) -> dict[str, list[inspect.Parameter]]:
        return {
            name: list(inspect.signature(member).parameters.values())
            for name, member in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_")
        }

    assert public(Client) == public(AsyncClient)
    assert set(public(Client)) >= {name for name, _, _ in CALLS.values()}


@pytest.mark.parametrize("method", CALLS)
def test_errors_of_every_rpc_are_typed(server: ScriptedServer, method: str) -> None:
    server.fail(grpc.StatusCode.FAILED_PRECONDITION, "not now", error_info("BECAUSE", holder="models/x"))
    with Client(server.endpoint) as client, pytest.raises(errors.FailedPrecondition) as caught:
        call(client, method)
    assert caught.value.reason == "BECAUSE"
    assert caught.value.metadata == {"holder": "models/x"}
    assert caught.value.request == method
    assert caught.value.message == "not now"


@pytest.mark.parametrize("method", CALLS)
async def test_errors_of_every_async_rpc_are_typed(server: ScriptedServer, method: str) -> None:
    server.fail(grpc.StatusCode.FAILED_PRECONDITION, "not now", error_info("BECAUSE", holder="models/x"))
    async with AsyncClient(server.endpoint) as client:
        with pytest.raises(errors.FailedPrecondition) as caught:
            await call_async(client, method)
    assert caught.value.reason == "BECAUSE"
    assert caught.value.request == method


@pytest.mark.parametrize("method", CALLS)
async def test_every_rpc_has_a_deadline(server: ScriptedServer, method: str) -> None:
    with Client(server.endpoint, timeout_s=7.0) as client:
        call(client, method)
    async with AsyncClient(server.endpoint, timeout_s=7.0) as asynchronous:
        await call_async(asynchronous, method)
    limit_s = 40.0 if method == "WaitForRevision" else 7.0
    assert [name for name, _ in server.calls] == [method, method]
    # gRPC rounds deadlines up on the wire.
    assert all(limit_s - 2.0 < remaining_s < limit_s + 0.5 for _, remaining_s in server.calls)


def test_a_deadline_can_be_given_for_one_call(server: ScriptedServer) -> None:
    with Client(server.endpoint) as client:
        client.get_model("m", timeout_s=2.0)
    assert server.calls[0][1] < 2.5


def requests_of_retries(method: str) -> list[bytes]:
    """What a client sends for a call that is UNAVAILABLE every time."""
    sent: list[bytes] = []

    def answer(method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        sent.append(request)
        context.abort(grpc.StatusCode.UNAVAILABLE, "starting")

    server = ScriptedServer()
    server.answer = answer
    server.start()
    try:
        with Client(server.endpoint) as client, pytest.raises(errors.Unavailable):
            call(client, method)
    finally:
        server.stop()
    return sent


@pytest.fixture(scope="module")
def retries() -> Iterator[Mapping[str, futures.Future[list[bytes]]]]:
    """The requests of every method. All methods wait out their backoff at the same time."""
    with futures.ThreadPoolExecutor(len(CALLS)) as pool:
        yield {method: pool.submit(requests_of_retries, method) for method in CALLS}


@pytest.mark.parametrize("method", CALLS)
def test_unavailable_is_retried_with_the_same_request(
    retries: Mapping[str, futures.Future[list[bytes]]], method: str
) -> None:
    sent = retries[method].result()
    assert len(sent) == 4
    assert len(set(sent)) == 1


READS = ("Get", "List", "Fetch", "Wait", "Diff")
"""Prefixes of the methods that change nothing."""


CHANGES = [name for name in CALLS if not name.startswith(READS)]


def test_every_request_with_a_request_id_is_known_as_a_change() -> None:
    methods = [method for service in SERVICES for method in service.methods]
    with_id = {method.name for method in methods if "request_id" in method.input_type.fields_by_name}
    assert with_id - NOT_FOR_CLIENTS == set(CHANGES)


@pytest.mark.parametrize("method", CHANGES)
async def test_every_change_can_be_given_a_request_id(server: ScriptedServer, method: str) -> None:
    given = str(uuid.uuid4())
    ids: list[str] = []

    def answer(method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        ids.append(request_id_of(method, request))
        return b""

    server.answer = answer
    with Client(server.endpoint) as client:
        call(client, method, request_id=given)
    async with AsyncClient(server.endpoint) as asynchronous:
        await call_async(asynchronous, method, request_id=given)
    assert ids == [given, given]


@pytest.mark.parametrize("method", CHANGES)
async def test_every_change_has_its_own_request_id(server: ScriptedServer, method: str) -> None:
    ids: list[str] = []

    def answer(method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        ids.append(request_id_of(method, request))
        return b""

    server.answer = answer
    with Client(server.endpoint) as client:
        call(client, method)
        call(client, method)
    async with AsyncClient(server.endpoint) as asynchronous:
        await call_async(asynchronous, method)
    assert [uuid.UUID(id_).version for id_ in ids] == [4, 4, 4]
    assert len(set(ids)) == 3


def test_a_restart_of_the_control_plane_is_retried(server: ScriptedServer) -> None:
    tries = itertools.count()

    def answer(method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        if next(tries) < 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        return registry_service_pb2.GetModelResponse(model=Model(name="models/m")).SerializeToString()

    server.answer = answer
    with Client(server.endpoint) as client:
        assert client.get_model("m").name == "models/m"


def test_an_unreachable_control_plane_is_unavailable() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(errors.Unavailable) as caught:
        client.get_model("m")
    assert caught.value.reason == "UNAVAILABLE"


def test_no_answer_in_time_is_deadline_exceeded(server: ScriptedServer) -> None:
    def answer(method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        while context.is_active():
            pass
        return b""

    server.answer = answer
    with Client(server.endpoint) as client, pytest.raises(errors.DeadlineExceeded):
        client.get_model("m", timeout_s=0.2)


def test_lists_continue_over_all_pages(server: ScriptedServer) -> None:
    seen: list[str] = []

    def answer(method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        token = registry_service_pb2.ListModelsRequest.FromString(request).page_token
        seen.append(token)
        page = int(token or "0")
        return registry_service_pb2.ListModelsResponse(
            models=[Model(name=f"models/{page}")], next_page_token=str(page + 1) if page < 2 else ""
        ).SerializeToString()

    server.answer = answer
    with Client(server.endpoint) as client:
        assert [model.name for model in client.list_models()] == ["models/0", "models/1", "models/2"]
    assert seen == ["", "1", "2"]


def test_a_repeated_page_is_an_error_and_not_an_endless_list(server: ScriptedServer) -> None:
    page = registry_service_pb2.ListModelsResponse(next_page_token="again").SerializeToString()
    server.answer = lambda method, request, context: page
    with Client(server.endpoint) as client, pytest.raises(errors.Internal, match="same page"):
        list(client.list_models())


def test_pages_of_a_snapshot_are_merged(server: ScriptedServer) -> None:
    def answer(method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        token = snapshot_service_pb2.FetchSnapshotRequest.FromString(request).page_token
        return snapshot_service_pb2.FetchSnapshotResponse(
            position=Position(revision=3, store_uid="s"),
            entries=[Entry(ref=EntryRef(name=f"models/{token or 'first'}"))],
            next_page_token="" if token else "second",
            entry_count=2,
        ).SerializeToString()

    server.answer = answer
    with Client(server.endpoint) as client:
        snapshot = client.fetch_snapshot()
    assert [entry.ref.name for entry in snapshot.entries] == ["models/first", "models/second"]
    assert (snapshot.position.revision, snapshot.entry_count, snapshot.next_page_token) == (3, 2, "")


def test_resource_names_and_ids_are_equivalent(server: ScriptedServer) -> None:
    seen: list[str] = []

    def answer(method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append(registry_service_pb2.GetModelRequest.FromString(request).name)
        return b""

    server.answer = answer
    with Client(server.endpoint) as client:
        client.get_model("m")
        client.get_model("models/m")
        client.get_adapter("m/a")
        client.get_adapter("models/m/adapters/a")
        client.get_data_plane("local")
        client.get_data_plane("dataPlanes/local")
    assert seen == [*["models/m"] * 2, *["models/m/adapters/a"] * 2, *["dataPlanes/local"] * 2]


def test_an_answer_that_is_too_large_is_a_typed_error(server: ScriptedServer) -> None:
    server.answer = lambda method, request, context: b"\0" * (65 << 20)
    with Client(server.endpoint) as client, pytest.raises(errors.ResourceExhausted):
        client.get_model("m")


def test_violations_reach_the_exception(server: ScriptedServer) -> None:
    server.fail(
        grpc.StatusCode.INVALID_ARGUMENT,
        "the request is not valid",
        error_info("INVALID_FIELDS"),
        bad_request(model_id="got '': 1 to 63 characters"),
    )
    with Client(server.endpoint) as client, pytest.raises(errors.InvalidArgument) as caught:
        client.get_model("m")
    (violation,) = caught.value.violations
    assert (violation.field, violation.description) == ("model_id", "got '': 1 to 63 characters")
    assert str(caught.value) == "the request is not valid\n  model_id: got '': 1 to 63 characters"


def test_a_closed_client_raises(server: ScriptedServer) -> None:
    client = Client(server.endpoint)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.get_model("m")


async def test_a_closed_async_client_raises(server: ScriptedServer) -> None:
    client = AsyncClient(server.endpoint)
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.get_model("m")


@pytest.mark.parametrize("make", [Client, AsyncClient])
@pytest.mark.parametrize("endpoint", ["", "localhost", "http://127.0.0.1:8300", "https://x:1", "127.0.0.1:", "a b:1"])
def test_invalid_endpoints_are_rejected(make: Callable[[str], object], endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        make(endpoint)


async def test_cancelling_the_task_raises_cancelled_error(server: ScriptedServer) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def answer(method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        loop.call_soon_threadsafe(started.set)
        while context.is_active():
            pass
        return b""

    server.answer = answer
    async with AsyncClient(server.endpoint) as client:
        task = asyncio.create_task(client.get_model("m"))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
