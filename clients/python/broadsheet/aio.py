"""The asyncio client: the methods of `broadsheet.client`, with the same arguments, answers and
exceptions.

What they do is described there. The two classes are thin: requests, paging, errors and waiting are
shared, and a test compares every signature.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import datetime
from functools import cached_property
from os import PathLike
from types import TracebackType
from typing import Literal, Self, TypeVar

import grpc

from broadsheet import _requests
from broadsheet._channel import (
    DEFAULT_ENDPOINT,
    DEFAULT_TIMEOUT_S,
    WAIT_GRACE_S,
    channel_options,
    check_endpoint,
)
from broadsheet._status import from_rpc_error
from broadsheet.errors import DeadlineExceeded, Unavailable
from broadsheet.progress import ServingProgress
from broadsheet.serving import POLL_INTERVAL_S, ServingWait
from broadsheet.types import (
    Adapter,
    AdapterCard,
    AdapterRevision,
    Admission,
    ApiKey,
    AuditEvent,
    ControlRolloutResponse,
    CreateApiKeyResponse,
    DataPlane,
    DeleteAdapterResponse,
    DeleteModelResponse,
    DeleteRouteResponse,
    DiffSnapshotsResponse,
    FetchSnapshotResponse,
    Model,
    ModelCard,
    ModelRevision,
    ModelSpec,
    RegisterAdapterResponse,
    RegisterModelResponse,
    RevokeApiKeyResponse,
    RollbackAdapterResponse,
    RollbackCatalogResponse,
    RollbackModelResponse,
    RolloutPolicy,
    Route,
    RouteRevision,
    RouteSpec,
    Scaling,
    SetRouteResponse,
    SnapshotSummary,
    Source,
    UndeleteAdapterResponse,
    UndeleteModelResponse,
    UpdateAdapterResponse,
    UpdateModelResponse,
    WaitForRevisionResponse,
    WarmModelResponse,
)
from broadsheet.v1 import (
    api_key_pb2,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    rollback_pb2,
    route_pb2,
    snapshot_service_pb2_grpc,
)
from protocol.transport.credentials import Credentials

_RequestT = TypeVar("_RequestT")
_ResponseT = TypeVar("_ResponseT")
_PagedRequestT = TypeVar("_PagedRequestT", bound=_requests.PagedRequest)
_PagedResponseT = TypeVar("_PagedResponseT", bound=_requests.PagedResponse)


class AsyncClient:
    """`broadsheet.Client` for asyncio. Use it as an async context manager, or `close` it; in one
    event loop only.

    Methods that list are async iterators: `async for model in client.list_models()`.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        credentials: Credentials | None = None,
    ) -> None:
        """As `Client`. May be called before the event loop runs."""
        self._endpoint = check_endpoint(endpoint)
        self._timeout_s = timeout_s
        self._credentials = credentials or Credentials()
        self._tls = self._credentials.channel_credentials(endpoint)
        self._closed = False

    # A channel of grpc.aio belongs to the event loop that runs when it is made, so it is made at
    # the first call.
    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        options = channel_options(self._endpoint)
        if self._tls is None:
            return grpc.aio.insecure_channel(self._endpoint, options=options)
        return grpc.aio.secure_channel(self._endpoint, self._tls, options=options)

    @cached_property
    def _registry(self) -> registry_service_pb2_grpc.RegistryServiceAsyncStub:
        return registry_service_pb2_grpc.RegistryServiceStub(self._channel)

    @cached_property
    def _snapshot(self) -> snapshot_service_pb2_grpc.SnapshotServiceAsyncStub:
        return snapshot_service_pb2_grpc.SnapshotServiceStub(self._channel)

    @cached_property
    def _fleet(self) -> fleet_service_pb2_grpc.FleetServiceAsyncStub:
        return fleet_service_pb2_grpc.FleetServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, type_: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Client.close`."""
        self._closed = True
        if "_channel" in self.__dict__:
            await self._channel.close()

    # --- models -----------------------------------------------------------------------------------

    async def register_model(
        self,
        model_id: str,
        *,
        spec: ModelSpec | Mapping[str, object],
        card: ModelCard | Mapping[str, object] | None = None,
        served_name: str = "",
        rollout_policy: RolloutPolicy | Mapping[str, object] | None = None,
        labels: Mapping[str, str] | None = None,
        etag: str = "",
        must_create: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> RegisterModelResponse:
        """As `Client.register_model`."""
        request = _requests.register_model(
            model_id,
            spec=spec,
            card=card,
            served_name=served_name,
            rollout_policy=rollout_policy,
            labels=labels,
            etag=etag,
            must_create=must_create,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call("RegisterModel", self._registry.RegisterModel, request, timeout_s)

    async def get_model(self, model: str, *, timeout_s: float | None = None) -> Model:
        """As `Client.get_model`."""
        request = registry_service_pb2.GetModelRequest(name=_requests.model_resource(model))
        return (await self._call("GetModel", self._registry.GetModel, request, timeout_s)).model

    async def list_models(
        self,
        *,
        filter: str = "",
        order_by: str = "",
        show_deleted: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Model]:
        """As `Client.list_models`."""
        request = _requests.list_models(filter, order_by, show_deleted)
        async for page in self._pages("ListModels", self._registry.ListModels, request, timeout_s):
            for item in page.models:
                yield item

    async def list_model_revisions(self, model: str, *, timeout_s: float | None = None) -> AsyncIterator[ModelRevision]:
        """As `Client.list_model_revisions`."""
        request = _requests.list_model_revisions(model)
        async for page in self._pages("ListModelRevisions", self._registry.ListModelRevisions, request, timeout_s):
            for item in page.revisions:
                yield item

    async def delete_model(
        self,
        model: str,
        *,
        force: bool = False,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> DeleteModelResponse:
        """As `Client.delete_model`."""
        request = registry_service_pb2.DeleteModelRequest(
            name=_requests.model_resource(model),
            force=force,
            etag=etag,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call("DeleteModel", self._registry.DeleteModel, request, timeout_s)

    async def update_model(
        self,
        model: str,
        *,
        served_name: str | None = None,
        labels: Mapping[str, str] | None = None,
        card: ModelCard | Mapping[str, object] | None = None,
        scaling: Scaling | Mapping[str, object] | None = None,
        admission: Admission | Mapping[str, object] | None = None,
        update_mask: Iterable[str] | None = None,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> UpdateModelResponse:
        """As `Client.update_model`."""
        request = _requests.update_model(
            model,
            served_name=served_name,
            labels=labels,
            card=card,
            scaling=scaling,
            admission=admission,
            update_mask=update_mask,
            etag=etag,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call("UpdateModel", self._registry.UpdateModel, request, timeout_s)

    async def rollback_model(
        self,
        model: str,
        revision_number: int,
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> RollbackModelResponse:
        """As `Client.rollback_model`."""
        request = registry_service_pb2.RollbackModelRequest(
            name=_requests.model_resource(model),
            revision_number=revision_number,
            etag=etag,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call("RollbackModel", self._registry.RollbackModel, request, timeout_s)

    async def undelete_model(
        self,
        model: str,
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> UndeleteModelResponse:
        """As `Client.undelete_model`."""
        request = registry_service_pb2.UndeleteModelRequest(
            name=_requests.model_resource(model), etag=etag, validate_only=validate_only, request_id=request_id
        )
        return await self._call("UndeleteModel", self._registry.UndeleteModel, request, timeout_s)

    async def control_rollout(
        self,
        model: str,
        action: Literal["PAUSE", "RESUME", "ABORT"],
        *,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> ControlRolloutResponse:
        """As `Client.control_rollout`."""
        request = _requests.control_rollout(model, action, validate_only=validate_only, request_id=request_id)
        return await self._call("ControlRollout", self._registry.ControlRollout, request, timeout_s)

    async def warm_model(
        self,
        model: str,
        *,
        duration_s: float = 600.0,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> WarmModelResponse:
        """As `Client.warm_model`."""
        request = _requests.warm_model(
            model, duration_s=duration_s, etag=etag, validate_only=validate_only, request_id=request_id
        )
        return await self._call("WarmModel", self._registry.WarmModel, request, timeout_s)

    # --- adapters ---------------------------------------------------------------------------------

    async def register_adapter(
        self,
        model: str,
        adapter_id: str,
        *,
        source: str | PathLike[str] | Source,
        card: AdapterCard | Mapping[str, object] | None = None,
        served_name: str = "",
        labels: Mapping[str, str] | None = None,
        etag: str = "",
        must_create: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> RegisterAdapterResponse:
        """As `Client.register_adapter`."""
        request = _requests.register_adapter(
            model,
            adapter_id,
            source=source,
            card=card,
            served_name=served_name,
            labels=labels,
            etag=etag,
            must_create=must_create,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call("RegisterAdapter", self._registry.RegisterAdapter, request, timeout_s)

    async def get_adapter(self, adapter: str, *, timeout_s: float | None = None) -> Adapter:
        """As `Client.get_adapter`."""
        request = registry_service_pb2.GetAdapterRequest(name=_requests.adapter_resource(adapter))
        return (await self._call("GetAdapter", self._registry.GetAdapter, request, timeout_s)).adapter

    async def list_adapters(
        self,
        model: str | None = None,
        *,
        filter: str = "",
        order_by: str = "",
        show_deleted: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Adapter]:
        """As `Client.list_adapters`."""
        request = _requests.list_adapters(model, filter, order_by, show_deleted)
        async for page in self._pages("ListAdapters", self._registry.ListAdapters, request, timeout_s):
            for item in page.adapters:
                yield item

    async def delete_adapter(
        self,
        adapter: str,
        *,
        force: bool = False,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> DeleteAdapterResponse:
        """As `Client.delete_adapter`."""
        request = registry_service_pb2.DeleteAdapterRequest(
            name=_requests.adapter_resource(adapter),
            force=force,
            etag=etag,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call("DeleteAdapter", self._registry.DeleteAdapter, request, timeout_s)

    async def list_adapter_revisions(
        self, adapter: str, *, timeout_s: float | None = None
    ) -> AsyncIterator[AdapterRevision]:
        """As `Client.list_adapter_revisions`."""
        request = _requests.list_adapter_revisions(adapter)
        async for page in self._pages("ListAdapterRevisions", self._registry.ListAdapterRevisions, request, timeout_s):
            for item in page.revisions:
                yield item

    async def update_adapter(
        self,
        adapter: str,
        *,
        served_name: str | None = None,
        labels: Mapping[str, str] | None = None,
        card: AdapterCard | Mapping[str, object] | None = None,
        update_mask: Iterable[str] | None = None,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> UpdateAdapterResponse:
        """As `Client.update_adapter`."""
        request = _requests.update_adapter(
            adapter,
            served_name=served_name,
            labels=labels,
            card=card,
            update_mask=update_mask,
            etag=etag,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call("UpdateAdapter", self._registry.UpdateAdapter, request, timeout_s)

    async def rollback_adapter(
        self,
        adapter: str,
        revision_number: int,
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> RollbackAdapterResponse:
        """As `Client.rollback_adapter`."""
        request = registry_service_pb2.RollbackAdapterRequest(
            name=_requests.adapter_resource(adapter),
            revision_number=revision_number,
            etag=etag,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call("RollbackAdapter", self._registry.RollbackAdapter, request, timeout_s)

    async def undelete_adapter(
        self,
        adapter: str,
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> UndeleteAdapterResponse:
        """As `Client.undelete_adapter`."""
        request = registry_service_pb2.UndeleteAdapterRequest(
            name=_requests.adapter_resource(adapter), etag=etag, validate_only=validate_only, request_id=request_id
        )
        return await self._call("UndeleteAdapter", self._registry.UndeleteAdapter, request, timeout_s)

    # --- routes -----------------------------------------------------------------------------------

    async def set_route(
        self,
        route_id: str,
        *,
        spec: RouteSpec | Mapping[str, object],
        served_name: str = "",
        labels: Mapping[str, str] | None = None,
        validate_only: bool = False,
        timeout_s: float | None = None,
    ) -> SetRouteResponse:
        """As `Client.set_route`."""
        request = _requests.set_route(
            route_id, spec=spec, served_name=served_name, labels=labels, validate_only=validate_only
        )
        return await self._call("SetRoute", self._registry.SetRoute, request, timeout_s)

    async def get_route(self, route: str, *, timeout_s: float | None = None) -> Route:
        """As `Client.get_route`."""
        request = route_pb2.GetRouteRequest(name=_requests.route_resource(route))
        return (await self._call("GetRoute", self._registry.GetRoute, request, timeout_s)).route

    async def list_routes(self, *, timeout_s: float | None = None) -> AsyncIterator[Route]:
        """As `Client.list_routes`."""
        async for page in self._pages("ListRoutes", self._registry.ListRoutes, _requests.list_routes(), timeout_s):
            for item in page.routes:
                yield item

    async def list_route_revisions(self, route: str, *, timeout_s: float | None = None) -> AsyncIterator[RouteRevision]:
        """As `Client.list_route_revisions`."""
        request = _requests.list_route_revisions(route)
        async for page in self._pages("ListRouteRevisions", self._registry.ListRouteRevisions, request, timeout_s):
            for item in page.revisions:
                yield item

    async def delete_route(
        self, route: str, *, validate_only: bool = False, timeout_s: float | None = None
    ) -> DeleteRouteResponse:
        """As `Client.delete_route`."""
        request = route_pb2.DeleteRouteRequest(name=_requests.route_resource(route), validate_only=validate_only)
        return await self._call("DeleteRoute", self._registry.DeleteRoute, request, timeout_s)

    # --- audit ------------------------------------------------------------------------------------

    async def list_audit_events(
        self,
        *,
        resource: str = "",
        principal: str = "",
        method: str = "",
        min_revision: int | None = None,
        max_revision: int | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[AuditEvent]:
        """As `Client.list_audit_events`."""
        request = _requests.list_audit_events(
            resource=resource,
            principal=principal,
            method=method,
            min_revision=min_revision,
            max_revision=max_revision,
            start_time=start_time,
            end_time=end_time,
        )
        async for page in self._pages("ListAuditEvents", self._registry.ListAuditEvents, request, timeout_s):
            for item in page.events:
                yield item

    # --- API keys ---------------------------------------------------------------------------------

    async def create_api_key(
        self,
        api_key_id: str,
        *,
        allowed_served_names: Iterable[str],
        requests_per_minute: int = 0,
        tokens_per_minute: int = 0,
        expire_time: datetime | None = None,
        display_name: str = "",
        labels: Mapping[str, str] | None = None,
        validate_only: bool = False,
        timeout_s: float | None = None,
    ) -> CreateApiKeyResponse:
        """As `Client.create_api_key`."""
        request = _requests.create_api_key(
            api_key_id,
            allowed_served_names=allowed_served_names,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            expire_time=expire_time,
            display_name=display_name,
            labels=labels,
            validate_only=validate_only,
        )
        return _requests.shown_once(
            request, await self._call("CreateApiKey", self._registry.CreateApiKey, request, timeout_s)
        )

    async def get_api_key(self, api_key: str, *, timeout_s: float | None = None) -> ApiKey:
        """As `Client.get_api_key`."""
        request = api_key_pb2.GetApiKeyRequest(name=_requests.api_key_resource(api_key))
        return (await self._call("GetApiKey", self._registry.GetApiKey, request, timeout_s)).api_key

    async def list_api_keys(self, *, timeout_s: float | None = None) -> AsyncIterator[ApiKey]:
        """As `Client.list_api_keys`."""
        async for page in self._pages("ListApiKeys", self._registry.ListApiKeys, _requests.list_api_keys(), timeout_s):
            for item in page.api_keys:
                yield item

    async def revoke_api_key(
        self, api_key: str, *, validate_only: bool = False, timeout_s: float | None = None
    ) -> RevokeApiKeyResponse:
        """As `Client.revoke_api_key`."""
        request = api_key_pb2.RevokeApiKeyRequest(name=_requests.api_key_resource(api_key), validate_only=validate_only)
        return await self._call("RevokeApiKey", self._registry.RevokeApiKey, request, timeout_s)

    # --- snapshots --------------------------------------------------------------------------------

    async def list_snapshots(self, *, timeout_s: float | None = None) -> AsyncIterator[SnapshotSummary]:
        """As `Client.list_snapshots`."""
        request = _requests.list_snapshots()
        async for page in self._pages("ListSnapshots", self._snapshot.ListSnapshots, request, timeout_s):
            for item in page.snapshots:
                yield item

    async def fetch_snapshot(
        self, revision: int | None = None, *, timeout_s: float | None = None
    ) -> FetchSnapshotResponse:
        """As `Client.fetch_snapshot`."""
        request = _requests.fetch_snapshot(revision)
        whole = FetchSnapshotResponse()
        async for page in self._pages("FetchSnapshot", self._snapshot.FetchSnapshot, request, timeout_s):
            whole.MergeFrom(page)
        whole.ClearField("next_page_token")
        return whole

    async def diff_snapshots(
        self, from_revision: int, to_revision: int | None = None, *, timeout_s: float | None = None
    ) -> DiffSnapshotsResponse:
        """As `Client.diff_snapshots`."""
        request = _requests.diff_snapshots(from_revision, to_revision)
        whole = DiffSnapshotsResponse()
        async for page in self._pages("DiffSnapshots", self._snapshot.DiffSnapshots, request, timeout_s):
            whole.changes.extend(page.changes)
            whole.from_position.CopyFrom(page.from_position)
            whole.to_position.CopyFrom(page.to_position)
        return whole

    async def rollback_catalog(
        self,
        to_revision: int,
        *,
        expected_revision: int | None = None,
        validate_only: bool = False,
        timeout_s: float | None = None,
    ) -> RollbackCatalogResponse:
        """As `Client.rollback_catalog`."""
        request = rollback_pb2.RollbackCatalogRequest(
            to_revision=to_revision, expected_revision=expected_revision, validate_only=validate_only
        )
        return await self._call("RollbackCatalog", self._snapshot.RollbackCatalog, request, timeout_s)

    # --- the fleet --------------------------------------------------------------------------------

    async def list_data_planes(self, *, timeout_s: float | None = None) -> AsyncIterator[DataPlane]:
        """As `Client.list_data_planes`."""
        request = _requests.list_data_planes()
        async for page in self._pages("ListDataPlanes", self._fleet.ListDataPlanes, request, timeout_s):
            for item in page.data_planes:
                yield item

    async def get_data_plane(self, data_plane: str, *, timeout_s: float | None = None) -> DataPlane:
        """As `Client.get_data_plane`."""
        request = fleet_service_pb2.GetDataPlaneRequest(name=_requests.data_plane_resource(data_plane))
        return (await self._call("GetDataPlane", self._fleet.GetDataPlane, request, timeout_s)).data_plane

    async def wait_for_revision(
        self, revision: int, *, data_planes: Iterable[str] = (), timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> WaitForRevisionResponse:
        """As `Client.wait_for_revision`."""
        request = _requests.wait_for_revision(revision, data_planes, timeout_s)
        return await self._call("WaitForRevision", self._fleet.WaitForRevision, request, timeout_s + WAIT_GRACE_S)

    async def wait_until_serving(
        self,
        resource: str,
        *,
        revision: int | None = None,
        require_ready: bool = False,
        timeout_s: float = 600.0,
        on_progress: Callable[[ServingProgress], None] | None = None,
    ) -> ServingProgress:
        """As `Client.wait_until_serving`."""
        wait = ServingWait(
            revision=revision, timeout_s=timeout_s, started_s=time.monotonic(), require_ready=require_ready
        )
        while True:
            try:
                progress = wait.update(
                    *await self._look(resource, wait.rpc_timeout_s(time.monotonic())), time.monotonic()
                )
                if on_progress is not None:
                    on_progress(progress)
                if progress.done:
                    return progress
            except (Unavailable, DeadlineExceeded) as error:
                wait.missed(error)
            wait.raise_if_late(time.monotonic())
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _look(self, resource: str, timeout_s: float) -> tuple[Model | Adapter, list[DataPlane]]:
        """The resource first: what a data plane is seen to have after that, it surely has."""
        get = self.get_adapter if _requests.is_adapter(resource) else self.get_model
        found = await get(resource, timeout_s=timeout_s)
        return found, [plane async for plane in self.list_data_planes(timeout_s=timeout_s)]

    # --- every RPC goes through here --------------------------------------------------------------

    async def _call(
        self,
        name: str,
        rpc: grpc.aio.UnaryUnaryMultiCallable[_RequestT, _ResponseT],
        request: _RequestT,
        timeout_s: float | None,
    ) -> _ResponseT:
        if self._closed:
            raise RuntimeError("this AsyncClient is closed")
        _requests.identify(request)
        try:
            metadata = self._credentials.metadata(self._endpoint)
            return await rpc(request, timeout=self._timeout_s if timeout_s is None else timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error, name) from error

    async def _pages(
        self,
        name: str,
        rpc: grpc.aio.UnaryUnaryMultiCallable[_PagedRequestT, _PagedResponseT],
        request: _PagedRequestT,
        timeout_s: float | None,
    ) -> AsyncIterator[_PagedResponseT]:
        more = True
        while more:
            response = await self._call(name, rpc, request, timeout_s)
            yield response
            more = _requests.advance(request, response, name)
