"""Who may call what: every role against every RPC of every service, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships no stubs
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from broadsheet.v1 import (
    api_key_pb2,
    diff_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
    snapshot_service_pb2,
)
from broadsheet.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from controlplane.access.permissions import PERMISSION_OF_METHOD, Role
from tests.stream.access_world import (
    DATA_PLANE_1_TOKEN,
    EXPIRED_TOKEN,
    TOKENS,
    Plane,
    bearer,
    entries,
    guarded_plane,
    methods,
    path,
    sha256,
    write_tokens,
)
from tests.stream.registry_plane import model_request

VIEWERS = {Role.VIEWER, Role.PUBLISHER, Role.OPERATOR, Role.ADMIN}
PUBLISHERS = VIEWERS - {Role.VIEWER}
OPERATORS = PUBLISHERS - {Role.PUBLISHER}

# Written down here once more, by name and not by permission: a slip in the table of `auth.py` does
# not go unseen.
EXCEPTIONS = {
    "Sync": {Role.DATA_PLANE, Role.ADMIN},
    "CreateApiKey": {Role.ADMIN},
    "GetApiKey": OPERATORS,
    "ListApiKeys": OPERATORS,
    "RevokeApiKey": OPERATORS,
    "ListAuditEvents": OPERATORS,
    "RollbackCatalog": OPERATORS,
    "RemoveDataPlane": {Role.ADMIN},
    "EnrollDataPlane": OPERATORS,
    "RedeemEnrollment": set(Role),
    "SetFleetPolicy": OPERATORS,
    "HaltFleetRollout": OPERATORS,
    "ResumeFleetRollout": OPERATORS,
    "ForceFleetRollout": OPERATORS,
}


def roles_allowed(method: MethodDescriptor) -> set[Role]:
    """The roles that may call a method."""
    if method.containing_service.full_name.startswith("grpc.health."):
        return set(Role)
    if method.name in EXCEPTIONS:
        return EXCEPTIONS[method.name]
    reads = method.name.startswith(("Get", "List", "Fetch", "Diff", "WaitFor", "ServerReflection"))
    return VIEWERS if reads else PUBLISHERS


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with guarded_plane(tmp_path) as running:
        yield running


async def call(plane: Plane, method: MethodDescriptor, metadata: Any) -> tuple[grpc.StatusCode, str]:
    """Call a method with an empty request; the status, and the reason in its details.

    A stream that stays open is let in: that is OK here.
    """
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    multi = getattr(plane.channel, kind)(path(method))
    request = iter([b""]) if method.client_streaming else b""
    rpc = multi(request, metadata=metadata)
    try:
        async with asyncio.timeout(0.5 if method.server_streaming else 10):
            if method.server_streaming:
                async for _ in rpc:
                    pass
            else:
                await rpc
    except TimeoutError:
        rpc.cancel()
        return grpc.StatusCode.OK, ""
    except grpc.aio.AioRpcError as error:
        return error.code(), reason_of(error)
    return grpc.StatusCode.OK, ""


def reason_of(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it takes these too
    if status is None:
        return ""
    found = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(found)
    assert found.domain == "broadsheet"
    return str(found.reason)


def test_every_rpc_has_a_permission() -> None:
    assert {path(method) for method in methods()} - set(PERMISSION_OF_METHOD) == set()


@pytest.mark.parametrize("role", Role)
async def test_each_role_may_call_exactly_its_own_rpcs(plane: Plane, role: Role) -> None:
    for method in methods():
        code, reason = await call(plane, method, bearer(TOKENS[role]))
        if role in roles_allowed(method):
            # It is authorized: an empty request may fail for other reasons.
            assert code not in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED), (method.name, code)
        else:
            assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"), method.name


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "TOKEN_MISSING"),
        (bearer("made-up"), "TOKEN_INVALID"),
        (bearer(EXPIRED_TOKEN), "TOKEN_EXPIRED"),
        ((("authorization", f"Basic {TOKENS[Role.ADMIN]}"),), "TOKEN_INVALID"),
        (bearer(TOKENS[Role.ADMIN]) * 2, "TOKEN_INVALID"),
        (bearer(""), "TOKEN_INVALID"),
    ],
)
async def test_calls_without_a_valid_token_are_refused(plane: Plane, metadata: Any, reason: str) -> None:
    for method in methods():
        found = await call(plane, method, metadata)
        if method.containing_service.full_name.startswith("grpc.health.") or method.name == "RedeemEnrollment":
            assert found[0] != grpc.StatusCode.UNAUTHENTICATED
        else:
            assert found == (grpc.StatusCode.UNAUTHENTICATED, reason), method.name


async def test_a_refusal_names_the_role_and_the_permission(plane: Plane) -> None:
    registry = registry_service_pb2_grpc.RegistryServiceStub(plane.channel)
    request = registry_service_pb2.DeleteModelRequest(name="models/m")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await registry.DeleteModel(request, metadata=bearer(TOKENS[Role.VIEWER]))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    details = caught.value.details()
    assert details is not None
    for word in ("the-viewer", "role viewer", "catalog.write", "publisher, operator, admin"):
        assert word in details


async def hello(plane: Plane, data_plane: str, token: str) -> str:
    """Say Hello as a data plane; the reason of the refusal, or empty."""
    stream = SnapshotServiceStub(plane.channel).Sync(metadata=bearer(token))
    request = snapshot_service_pb2.Hello(data_plane=data_plane, instance_uid="1")
    try:
        await stream.write(snapshot_service_pb2.SyncRequest(hello=request))
        await stream.read()
    except grpc.aio.AioRpcError as error:
        return reason_of(error)
    finally:
        stream.cancel()
    return ""


async def test_a_data_plane_is_spoken_for_by_its_own_credentials_only(plane: Plane) -> None:
    assert await hello(plane, "dp-1", DATA_PLANE_1_TOKEN) == ""
    assert await hello(plane, "dp-2", DATA_PLANE_1_TOKEN) == "DATA_PLANE_MISMATCH"
    assert await hello(plane, "dp-2", TOKENS[Role.DATA_PLANE]) == ""
    for role in (Role.DATA_PLANE, Role.ADMIN):
        assert await hello(plane, "dp-1", TOKENS[role]) == "DATA_PLANE_BOUND"


async def test_a_new_token_takes_its_data_plane_from_those_without_one(plane: Plane) -> None:
    assert await hello(plane, "dp-2", TOKENS[Role.DATA_PLANE]) == ""
    bound = {"name": "dp-2", "role": "data-plane", "data_plane": "dp-2", "sha256": sha256("of dp-2")}
    write_tokens(plane.tokens_file, [*entries(), bound])
    assert await hello(plane, "dp-2", TOKENS[Role.DATA_PLANE]) == "DATA_PLANE_BOUND"
    assert await hello(plane, "dp-2", "of dp-2") == ""


@pytest.mark.parametrize("role", [Role.VIEWER, Role.PUBLISHER, Role.OPERATOR, Role.ADMIN])
async def test_snapshots_show_api_keys_to_those_only_who_may_read_keys(plane: Plane, role: Role) -> None:
    registry = registry_service_pb2_grpc.RegistryServiceStub(plane.channel)
    snapshots = SnapshotServiceStub(plane.channel)
    admin, metadata = bearer(TOKENS[Role.ADMIN]), bearer(TOKENS[role])
    for key in ("alice", "bob"):
        request = api_key_pb2.CreateApiKeyRequest(
            api_key_id=key, limits=api_key_pb2.ApiKeyLimits(allowed_served_names=["*"])
        )
        await registry.CreateApiKey(request, metadata=admin)
    await registry.RegisterModel(model_request(), metadata=admin)
    fetch = snapshot_service_pb2.FetchSnapshotRequest(page_size=1)
    fetched = []
    while True:
        page = await snapshots.FetchSnapshot(fetch, metadata=metadata)
        fetched += [entry.ref.name for entry in page.entries]
        fetch.page_token = page.next_page_token
        if not fetch.page_token:
            break
    difference = await snapshots.DiffSnapshots(diff_pb2.DiffSnapshotsRequest(from_revision=0), metadata=metadata)
    listed = await snapshots.ListSnapshots(snapshot_service_pb2.ListSnapshotsRequest(), metadata=metadata)
    shown = [fetched, [change.name for change in difference.changes], [item.resource for item in listed.snapshots]]
    keys = ["apiKeys/alice", "apiKeys/bob"] if role in (Role.OPERATOR, Role.ADMIN) else []
    model = "models/m"
    assert shown == [[*keys, model], [*keys, model], [model, *(keys[::-1] or ["", ""]), ""]]
    assert page.entry_count == 3


async def test_a_changed_tokens_file_is_used_at_once_unless_it_is_invalid(plane: Plane) -> None:
    registry = registry_service_pb2_grpc.RegistryServiceStub(plane.channel)

    async def let_in(role: Role) -> bool:
        call = registry.ListModels(registry_service_pb2.ListModelsRequest(), metadata=bearer(TOKENS[role]))
        return await call.code() is grpc.StatusCode.OK

    assert await let_in(Role.VIEWER)
    write_tokens(plane.tokens_file, [entry for entry in entries() if entry["role"] != "viewer"])
    assert not await let_in(Role.VIEWER)
    assert await let_in(Role.ADMIN)
    plane.tokens_file.write_text("tokens: [")
    assert (await let_in(Role.ADMIN), await let_in(Role.VIEWER)) == (True, False)
    write_tokens(plane.tokens_file, entries())
    plane.tokens_file.chmod(0o602)
    assert not await let_in(Role.VIEWER)
    plane.tokens_file.chmod(0o600)
    assert await let_in(Role.VIEWER)


async def test_health_needs_no_token(plane: Plane) -> None:
    stub: Any = health_pb2_grpc.HealthStub(plane.channel)
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
