"""The blocking client. `broadsheet.aio` has the same for asyncio."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
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


class Client:
    """Talks to a control plane. Safe to share between threads. Use it as a context manager, or
    `close` it.

    Every method takes `timeout_s`, the deadline of one RPC in seconds; None means that of the
    client. Where a method lists over several pages, the deadline is for each page. Every method
    raises subclasses of `broadsheet.BroadsheetError`, as `broadsheet.errors` lists them;
    `Unavailable` and `DeadlineExceeded` any of them may raise. RPCs are tried up to four times
    within about two seconds while the control plane is unavailable; those that change something
    carry a request id, so that they are carried out once.

    Names: a model is `smollm2` or `models/smollm2`; an adapter is `smollm2/pirate` or
    `models/smollm2/adapters/pirate`; a data plane is `local` or `dataPlanes/local`.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        credentials: Credentials | None = None,
    ) -> None:
        """Prepare; nothing is sent before the first call.

        Args:
            endpoint: `host:port` of the control plane. Another machine is spoken to over TLS only,
                unless the credentials say otherwise.
            timeout_s: Deadline of each RPC in seconds, unless the call says otherwise.
            credentials: Token and TLS. Default: the token that a control plane on this machine left
            for this user.

        Raises:
            ValueError: `endpoint` is not `host:port`, or a file with a certificate or key cannot be
            read.
        """
        self._timeout_s = timeout_s
        self._endpoint = check_endpoint(endpoint)
        self._credentials = credentials or Credentials()
        options = channel_options(endpoint)
        tls = self._credentials.channel_credentials(endpoint)
        self._channel = (
            grpc.insecure_channel(endpoint, options=options)
            if tls is None
            else grpc.secure_channel(endpoint, tls, options=options)
        )
        self._closed = False
        self._registry = registry_service_pb2_grpc.RegistryServiceStub(self._channel)
        self._snapshot = snapshot_service_pb2_grpc.SnapshotServiceStub(self._channel)
        self._fleet = fleet_service_pb2_grpc.FleetServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type_: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Calls under way end as `Cancelled`. Closing twice does nothing."""
        self._closed = True
        self._channel.close()

    # --- models -----------------------------------------------------------------------------------

    def register_model(
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
        """Register a model, or a new revision of it. It states the whole model: what is left out
        gets its default.

        The same spec and card again write nothing, and answer with the revision that exists and
        `created` False. That is also the answer when a first try was carried out and its answer was
        lost.

        Args:
            model_id: Last part of the resource name: 1 to 63 of `a-z 0-9 . -`.
            spec: How to run it, as a message or as a mapping with the fields of a YAML spec
            (`broadsheet.specs`).
            card: What to tell people about it.
            served_name: What callers put into OpenAI's `model` field. Default: `model_id`.
            rollout_policy: How a change of the spec gets to the callers. Default: it replaces what
            was there.
            labels: Free key-value pairs.
            etag: That of the resource as it was read: refuse when it is another by now.
            must_create: Refuse when it exists.
            validate_only: Check everything, answer as if it had been done, and write nothing.
            request_id: UUID4 of this request, to ask again later. Default: a fresh one.

        Raises:
            InvalidSpec: A mapping has unknown fields or wrong types; nothing was sent.
            InvalidArgument: A field breaks a rule.
            AlreadyExists: The served name belongs to something else; or it exists, or is deleted,
            and must be created.
            Aborted: The etag is another.
            FailedPrecondition: Adapters that the model has do not fit the new spec.
        """
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
        return self._call("RegisterModel", self._registry.RegisterModel, request, timeout_s)

    def get_model(self, model: str, *, timeout_s: float | None = None) -> Model:
        """Get a model with its state on every data plane.

        Raises:
            NotFound: There is no such model.
        """
        request = registry_service_pb2.GetModelRequest(name=_requests.model_resource(model))
        return self._call("GetModel", self._registry.GetModel, request, timeout_s).model

    def list_models(
        self,
        *,
        filter: str = "",
        order_by: str = "",
        show_deleted: bool = False,
        timeout_s: float | None = None,
    ) -> Iterator[Model]:
        """List models with their states, page after page as they are asked for.

        Args:
            filter: Which models, such as `labels.env = prod AND state = FAILED`;
                `ListModelsRequest.filter` in `registry_service.proto` says what it can be. Default:
                all.
            order_by: Fields to sort by, such as `create_time desc`: `name`, `served_name`,
                `create_time`, `update_time`. Default: `name`.
            show_deleted: Deleted ones too.

        Raises:
            InvalidArgument: The filter or the order is none; the violation says what is allowed.
        """
        request = _requests.list_models(filter, order_by, show_deleted)
        for page in self._pages("ListModels", self._registry.ListModels, request, timeout_s):
            yield from page.models

    def list_model_revisions(self, model: str, *, timeout_s: float | None = None) -> Iterator[ModelRevision]:
        """List the revisions of a model, newest first.

        Raises:
            NotFound: There is no such model.
        """
        request = _requests.list_model_revisions(model)
        for page in self._pages("ListModelRevisions", self._registry.ListModelRevisions, request, timeout_s):
            yield from page.revisions

    def delete_model(
        self,
        model: str,
        *,
        force: bool = False,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> DeleteModelResponse:
        """Delete a model. It can be undeleted until its purge time.

        Args:
            force: Delete its adapters too, and take it and them out of the routes that refer to
            them.
            etag: That of the resource as it was read: refuse when it is another by now.
            validate_only: Check everything, and write nothing.
            request_id: UUID4 of this request, to ask again later. Default: a fresh one.

        Raises:
            NotFound: There is no such model.
            FailedPrecondition: It has adapters or routes refer to it, and `force` is False; or a
                route would be left without a target.
            Aborted: The etag is another.
        """
        request = registry_service_pb2.DeleteModelRequest(
            name=_requests.model_resource(model),
            force=force,
            etag=etag,
            validate_only=validate_only,
            request_id=request_id,
        )
        return self._call("DeleteModel", self._registry.DeleteModel, request, timeout_s)

    def update_model(
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
        """Change fields of a model and leave the others. What is given replaces what is there, as a
        whole.

        Args:
            update_mask: Paths to change, such as `revision.card.description`, where part of what is
                given is meant, or a field is to get its default. Default: those of all that is
                given.
            etag: That of the model as it was read: refuse when it is another by now.
            validate_only: Check everything, answer as if it had been done, and write nothing.
            request_id: UUID4 of this request, to ask again later. Default: a fresh one.

        Raises:
            InvalidSpec: A mapping has unknown fields or wrong types; nothing was sent.
            InvalidArgument: A field breaks a rule, or the mask names what no update changes.
            NotFound: There is no such model.
            AlreadyExists: The served name belongs to something else.
            Aborted: The etag is another.
        """
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
        return self._call("UpdateModel", self._registry.UpdateModel, request, timeout_s)

    def rollback_model(
        self,
        model: str,
        revision_number: int,
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> RollbackModelResponse:
        """Make a new revision with the spec and card of an earlier one. Served name and labels stay
        as they are.

        Args:
            revision_number: That of the earlier revision.
            etag: That of the model as it was read: refuse when it is another by now.
            validate_only: Check everything, answer as if it had been done, and write nothing.
            request_id: UUID4 of this request, to ask again later. Default: a fresh one.

        Raises:
            NotFound: There is no such model, or it has no such revision.
            FailedPrecondition: Adapters that the model has do not fit the earlier spec.
            Aborted: The etag is another.
        """
        request = registry_service_pb2.RollbackModelRequest(
            name=_requests.model_resource(model),
            revision_number=revision_number,
            etag=etag,
            validate_only=validate_only,
            request_id=request_id,
        )
        return self._call("RollbackModel", self._registry.RollbackModel, request, timeout_s)

    def undelete_model(
        self,
        model: str,
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> UndeleteModelResponse:
        """Take a deletion back. The adapters that were deleted with the model come back with it.

        Args:
            etag: That of the model as it was read: refuse when it is another by now.
            validate_only: Check everything, answer as if it had been done, and write nothing.
            request_id: UUID4 of this request, to ask again later. Default: a fresh one.

        Raises:
            NotFound: There is no such model, or its purge time has come.
            AlreadyExists: It is not deleted, or something else has one of the served names by now.
            Aborted: The etag is another.
        """
        request = registry_service_pb2.UndeleteModelRequest(
            name=_requests.model_resource(model), etag=etag, validate_only=validate_only, request_id=request_id
        )
        return self._call("UndeleteModel", self._registry.UndeleteModel, request, timeout_s)

    def control_rollout(
        self,
        model: str,
        action: Literal["PAUSE", "RESUME", "ABORT"],
        *,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> ControlRolloutResponse:
        """Pause, resume or abort the rollout of a model's newest revision.

        Args:
            action: PAUSE: stay at the step; RESUME: go on; ABORT: send all requests to the revision
            before.
            validate_only: Check everything, answer as if it had been done, and write nothing.
            request_id: UUID4 of this request, to ask again later. Default: a fresh one.

        Raises:
            NotFound: There is no such model.
            FailedPrecondition: It has no rollout under way, or it is paused or running already.
        """
        request = _requests.control_rollout(model, action, validate_only=validate_only, request_id=request_id)
        return self._call("ControlRollout", self._registry.ControlRollout, request, timeout_s)

    def warm_model(
        self,
        model: str,
        *,
        duration_s: float = 600.0,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> WarmModelResponse:
        """Have every data plane start a model before it is asked for, and keep it for a while.

        Afterwards it idles away as any other. No model revision is made. `wait_until_serving` with
        `require_ready` waits until it answers everywhere.

        Args:
            duration_s: How long from now on, in seconds: 1 s to 7 days. It replaces what was asked
                for before. 0: end the warming.
            etag: That of the model as it was read: refuse when it is another by now.
            validate_only: Check everything, answer as if it had been done, and write nothing.
            request_id: UUID4 of this request, to ask again later. Default: a fresh one.

        Raises:
            InvalidArgument: `duration_s` is neither 0 nor in that range.
            NotFound: There is no such model.
            Aborted: The etag is another.
        """
        request = _requests.warm_model(
            model, duration_s=duration_s, etag=etag, validate_only=validate_only, request_id=request_id
        )
        return self._call("WarmModel", self._registry.WarmModel, request, timeout_s)

    # --- adapters ---------------------------------------------------------------------------------

    def register_adapter(
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
        """Register a LoRA adapter of a model, or a new revision of it. The control plane reads and
        checks its files.

        The same files and card again write nothing, as in `register_model`.

        Args:
            model: The base model.
            adapter_id: Last part of the resource name: 1 to 63 of `a-z 0-9 . -`.
            source: Directory with `adapter_config.json` and `adapter_model.safetensors`: a path on
                this machine (the control plane and the data planes must see it under the same path)
                or a `file:///` URI.
            card: What to tell people about it.
            served_name: What callers put into OpenAI's `model` field. Default: `{served name of the
                base}:{adapter_id}`.
            labels: Free key-value pairs.
            etag: That of the resource as it was read: refuse when it is another by now.
            must_create: Refuse when it exists.
            validate_only: Check everything, answer as if it had been done, and write nothing.
            request_id: UUID4 of this request, to ask again later. Default: a fresh one.

        Raises:
            InvalidSpec: `source` is a relative path that leads nowhere, or `card` has unknown
            fields; nothing was sent.
            InvalidArgument: A field breaks a rule, or the files are not an adapter that this model
            can take.
            NotFound: There is no such model.
            AlreadyExists: The served name belongs to something else; or it exists, or is deleted,
            and must be created.
            Aborted: The etag is another.
            FailedPrecondition: The model takes no adapters, or none of this rank.
        """
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
        return self._call("RegisterAdapter", self._registry.RegisterAdapter, request, timeout_s)

    def get_adapter(self, adapter: str, *, timeout_s: float | None = None) -> Adapter:
        """Get an adapter with its state on every data plane.

        Raises:
            NotFound: There is no such adapter.
        """
        request = registry_service_pb2.GetAdapterRequest(name=_requests.adapter_resource(adapter))
        return self._call("GetAdapter", self._registry.GetAdapter, request, timeout_s).adapter

    def list_adapters(
        self,
        model: str | None = None,
        *,
        filter: str = "",
        order_by: str = "",
        show_deleted: bool = False,
        timeout_s: float | None = None,
    ) -> Iterator[Adapter]:
        """List the adapters of a model, or of all models, with their states.

        Args:
            filter: Which adapters, such as `labels.team = search AND owner = ann`;
                `ListAdaptersRequest.filter` in `registry_service.proto` says what it can be.
                Default: all.
            order_by: Fields to sort by, such as `create_time desc`: `name`, `served_name`,
                `create_time`, `update_time`. Default: `name`.
            show_deleted: Deleted ones too.

        Raises:
            InvalidArgument: The filter or the order is none; the violation says what is allowed.
            NotFound: There is no such model.
        """
        request = _requests.list_adapters(model, filter, order_by, show_deleted)
        for page in self._pages("ListAdapters", self._registry.ListAdapters, request, timeout_s):
            yield from page.adapters

    def delete_adapter(
        self,
        adapter: str,
        *,
        force: bool = False,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> DeleteAdapterResponse:
        """Delete an adapter. It can be undeleted until its purge time.

        Args:
            force: Take it out of the routes that refer to it.
            etag: That of the resource as it was read: refuse when it is another by now.
            validate_only: Check everything, and write nothing.
            request_id: UUID4 of this request, to ask again later. Default: a fresh one.

        Raises:
            NotFound: There is no such adapter.
            FailedPrecondition: Routes refer to it, and `force` is False; or one would be left
            without a target.
            Aborted: The etag is another.
        """
        request = registry_service_pb2.DeleteAdapterRequest(
            name=_requests.adapter_resource(adapter),
            force=force,
            etag=etag,
            validate_only=validate_only,
            request_id=request_id,
        )
        return self._call("DeleteAdapter", self._registry.DeleteAdapter, request, timeout_s)

    def list_adapter_revisions(self, adapter: str, *, timeout_s: float | None = None) -> Iterator[AdapterRevision]:
        """List the revisions of an adapter, newest first.

        Raises:
            NotFound: There is no such adapter.
        """
        request = _requests.list_adapter_revisions(adapter)
        for page in self._pages("ListAdapterRevisions", self._registry.ListAdapterRevisions, request, timeout_s):
            yield from page.revisions

    def update_adapter(
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
        """Change fields of an adapter and leave the others. What is given replaces what is there,
        as a whole.

        Args:
            update_mask: Paths to change, such as `revision.card.description`, where part of what is
                given is meant, or a field is to get its default. Default: those of all that is
                given.
            etag: That of the adapter as it was read: refuse when it is another by now.
            validate_only: Check everything, answer as if it had been done, and write nothing.
            request_id: UUID4 of this request, to ask again later. Default: a fresh one.

        Raises:
            InvalidSpec: A mapping has unknown fields or wrong types; nothing was sent.
            InvalidArgument: A field breaks a rule, or the mask names what no update changes.
            NotFound: There is no such adapter.
            AlreadyExists: The served name belongs to something else.
            Aborted: The etag is another.
        """
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
        return self._call("UpdateAdapter", self._registry.UpdateAdapter, request, timeout_s)

    def rollback_adapter(
        self,
        adapter: str,
        revision_number: int,
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> RollbackAdapterResponse:
        """Make a new revision with the files and card of an earlier one. Served name and labels
        stay as they are.

        Args:
            revision_number: That of the earlier revision.
            etag: That of the adapter as it was read: refuse when it is another by now.
            validate_only: Check everything, answer as if it had been done, and write nothing.
            request_id: UUID4 of this request, to ask again later. Default: a fresh one.

        Raises:
            NotFound: There is no such adapter, or it has no such revision.
            FailedPrecondition: The files are not those of that revision any more.
            Aborted: The etag is another.
        """
        request = registry_service_pb2.RollbackAdapterRequest(
            name=_requests.adapter_resource(adapter),
            revision_number=revision_number,
            etag=etag,
            validate_only=validate_only,
            request_id=request_id,
        )
        return self._call("RollbackAdapter", self._registry.RollbackAdapter, request, timeout_s)

    def undelete_adapter(
        self,
        adapter: str,
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> UndeleteAdapterResponse:
        """Take a deletion back.

        Args:
            etag: That of the adapter as it was read: refuse when it is another by now.
            validate_only: Check everything, answer as if it had been done, and write nothing.
            request_id: UUID4 of this request, to ask again later. Default: a fresh one.

        Raises:
            NotFound: There is no such adapter, or its purge time has come.
            AlreadyExists: It is not deleted, or something else has its served name by now.
            Aborted: The etag is another.
        """
        request = registry_service_pb2.UndeleteAdapterRequest(
            name=_requests.adapter_resource(adapter), etag=etag, validate_only=validate_only, request_id=request_id
        )
        return self._call("UndeleteAdapter", self._registry.UndeleteAdapter, request, timeout_s)

    # --- routes -----------------------------------------------------------------------------------

    def set_route(
        self,
        route_id: str,
        *,
        spec: RouteSpec | Mapping[str, object],
        served_name: str = "",
        labels: Mapping[str, str] | None = None,
        validate_only: bool = False,
        timeout_s: float | None = None,
    ) -> SetRouteResponse:
        """Make a route, or change it. It states the whole route: what is left out gets its default.

        The same again writes nothing, as in `register_model`.

        Args:
            route_id: Last part of the resource name: 1 to 63 of `a-z 0-9 . -`.
            spec: What it does, as a message or as a mapping such as `{"targets": [{"resource":
                "models/a", "weight": 90}, {"resource": "models/b", "weight": 10}], "fallbacks":
                [{"resource": "models/a"}]}`.
            served_name: What callers put into OpenAI's `model` field. Default: `route_id`.
            labels: Free key-value pairs.
            validate_only: Check everything, answer as if it had been done, and write nothing.

        Raises:
            InvalidSpec: A mapping has unknown fields or wrong types; nothing was sent.
            InvalidArgument: A field breaks a rule, or it refers to something that does not exist.
            AlreadyExists: The served name belongs to something else.
        """
        request = _requests.set_route(
            route_id, spec=spec, served_name=served_name, labels=labels, validate_only=validate_only
        )
        return self._call("SetRoute", self._registry.SetRoute, request, timeout_s)

    def get_route(self, route: str, *, timeout_s: float | None = None) -> Route:
        """Get a route.

        Raises:
            NotFound: There is no such route.
        """
        request = route_pb2.GetRouteRequest(name=_requests.route_resource(route))
        return self._call("GetRoute", self._registry.GetRoute, request, timeout_s).route

    def list_routes(self, *, timeout_s: float | None = None) -> Iterator[Route]:
        """List all routes by id, page after page as they are asked for."""
        for page in self._pages("ListRoutes", self._registry.ListRoutes, _requests.list_routes(), timeout_s):
            yield from page.routes

    def list_route_revisions(self, route: str, *, timeout_s: float | None = None) -> Iterator[RouteRevision]:
        """List the revisions of a route, newest first.

        Raises:
            NotFound: There is no such route.
        """
        request = _requests.list_route_revisions(route)
        for page in self._pages("ListRouteRevisions", self._registry.ListRouteRevisions, request, timeout_s):
            yield from page.revisions

    def delete_route(
        self, route: str, *, validate_only: bool = False, timeout_s: float | None = None
    ) -> DeleteRouteResponse:
        """Delete a route. What it refers to stays.

        Args:
            validate_only: Check everything, and write nothing.

        Raises:
            NotFound: There is no such route.
        """
        request = route_pb2.DeleteRouteRequest(name=_requests.route_resource(route), validate_only=validate_only)
        return self._call("DeleteRoute", self._registry.DeleteRoute, request, timeout_s)

    # --- audit ------------------------------------------------------------------------------------

    def list_audit_events(
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
    ) -> Iterator[AuditEvent]:
        """List who changed what, one event per catalog revision, newest first. An event matches
        every argument given.

        Args:
            resource: A model, adapter or other resource that the event is about, or that it
            changed.
            principal: Name of who made the change.
            method: Such as `RegisterModel`.
            min_revision: The lowest catalog revision.
            max_revision: The highest catalog revision.
            start_time: Made at this time or later. A time without a zone is local time.
            end_time: Made before this time.

        Raises:
            InvalidArgument: A value can be none, or the lowest revision is above the highest.
        """
        request = _requests.list_audit_events(
            resource=resource,
            principal=principal,
            method=method,
            min_revision=min_revision,
            max_revision=max_revision,
            start_time=start_time,
            end_time=end_time,
        )
        for page in self._pages("ListAuditEvents", self._registry.ListAuditEvents, request, timeout_s):
            yield from page.events

    # --- API keys ---------------------------------------------------------------------------------

    def create_api_key(
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
        """Make a key for the OpenAI API of the data planes. The answer has the key in it, this
        once.

        Args:
            api_key_id: Last part of the resource name; it is never free again.
            allowed_served_names: Patterns of what it may call and see: `*` stands for any
            characters, `?` for one.
            requests_per_minute: 0: as many as one likes.
            tokens_per_minute: 0: as many as one likes.
            expire_time: From then on it is not accepted any more (aware, or naive in UTC). None:
            never.
            display_name: A name for people.
            labels: Free key-value pairs.
            validate_only: Check everything, make no key, and write nothing.

        Raises:
            InvalidArgument: A field breaks a rule.
            AlreadyExists: There is or was a key of this id.
            DataLoss: It was made, but the answer with the key was lost: revoke it, and make
            another.
        """
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
            request, self._call("CreateApiKey", self._registry.CreateApiKey, request, timeout_s)
        )

    def get_api_key(self, api_key: str, *, timeout_s: float | None = None) -> ApiKey:
        """Get the description of a key.

        Raises:
            NotFound: There is no such key.
        """
        request = api_key_pb2.GetApiKeyRequest(name=_requests.api_key_resource(api_key))
        return self._call("GetApiKey", self._registry.GetApiKey, request, timeout_s).api_key

    def list_api_keys(self, *, timeout_s: float | None = None) -> Iterator[ApiKey]:
        """List keys by id, those that were revoked too."""
        for page in self._pages("ListApiKeys", self._registry.ListApiKeys, _requests.list_api_keys(), timeout_s):
            yield from page.api_keys

    def revoke_api_key(
        self, api_key: str, *, validate_only: bool = False, timeout_s: float | None = None
    ) -> RevokeApiKeyResponse:
        """Revoke a key for good. Data planes refuse it as soon as they have the snapshot of this
        change.

        Raises:
            NotFound: There is no such key.
        """
        request = api_key_pb2.RevokeApiKeyRequest(name=_requests.api_key_resource(api_key), validate_only=validate_only)
        return self._call("RevokeApiKey", self._registry.RevokeApiKey, request, timeout_s)

    # --- snapshots --------------------------------------------------------------------------------

    def list_snapshots(self, *, timeout_s: float | None = None) -> Iterator[SnapshotSummary]:
        """List the snapshots that the control plane still has, newest first."""
        request = _requests.list_snapshots()
        for page in self._pages("ListSnapshots", self._snapshot.ListSnapshots, request, timeout_s):
            yield from page.snapshots

    def fetch_snapshot(self, revision: int | None = None, *, timeout_s: float | None = None) -> FetchSnapshotResponse:
        """Get a whole snapshot; all pages are in the answer. `broadsheet.types` has the messages in
        `Entry.blob`.

        Args:
            revision: Catalog revision. None: the newest.

        Raises:
            NotFound: There is no snapshot of that revision, or no more.
        """
        request = _requests.fetch_snapshot(revision)
        whole = FetchSnapshotResponse()
        for page in self._pages("FetchSnapshot", self._snapshot.FetchSnapshot, request, timeout_s):
            whole.MergeFrom(page)
        whole.ClearField("next_page_token")
        return whole

    def diff_snapshots(
        self, from_revision: int, to_revision: int | None = None, *, timeout_s: float | None = None
    ) -> DiffSnapshotsResponse:
        """What differs between two snapshots, resource by resource and field by field; all pages
        are in the answer.

        Args:
            from_revision: Catalog revision of the snapshot to begin with. It may be the later one.
            to_revision: That of the snapshot to end with. None: the newest.

        Raises:
            NotFound: There is no snapshot of such a revision, or no more.
        """
        request = _requests.diff_snapshots(from_revision, to_revision)
        whole = DiffSnapshotsResponse()
        for page in self._pages("DiffSnapshots", self._snapshot.DiffSnapshots, request, timeout_s):
            whole.changes.extend(page.changes)
            whole.from_position.CopyFrom(page.from_position)
            whole.to_position.CopyFrom(page.to_position)
        return whole

    def rollback_catalog(
        self,
        to_revision: int,
        *,
        expected_revision: int | None = None,
        validate_only: bool = False,
        timeout_s: float | None = None,
    ) -> RollbackCatalogResponse:
        """Make the models, adapters and routes of an earlier snapshot the newest again, as one
        change.

        API keys stay as they are: revoked ones stay revoked, new ones valid. When nothing differs
        nothing is written.

        Args:
            to_revision: Catalog revision of the snapshot to go back to.
            expected_revision: Refuse unless this is the newest catalog revision. None: whatever is
            the newest.
            validate_only: Check everything, answer as if it had been done, and write nothing.

        Raises:
            NotFound: There is no snapshot of that revision, or no more.
            Aborted: `expected_revision` is not the newest.
            FailedPrecondition: A route of that snapshot pins a revision that does not exist any
            more.
            ResourceExhausted: More differs than one change may have.
        """
        request = rollback_pb2.RollbackCatalogRequest(
            to_revision=to_revision, expected_revision=expected_revision, validate_only=validate_only
        )
        return self._call("RollbackCatalog", self._snapshot.RollbackCatalog, request, timeout_s)

    # --- the fleet --------------------------------------------------------------------------------

    def list_data_planes(self, *, timeout_s: float | None = None) -> Iterator[DataPlane]:
        """List data planes by id. Without the states of their resources; see `get_data_plane`."""
        request = _requests.list_data_planes()
        for page in self._pages("ListDataPlanes", self._fleet.ListDataPlanes, request, timeout_s):
            yield from page.data_planes

    def get_data_plane(self, data_plane: str, *, timeout_s: float | None = None) -> DataPlane:
        """Get a data plane with the state of each of its resources.

        Raises:
            NotFound: No data plane of that id has ever connected.
        """
        request = fleet_service_pb2.GetDataPlaneRequest(name=_requests.data_plane_resource(data_plane))
        return self._call("GetDataPlane", self._fleet.GetDataPlane, request, timeout_s).data_plane

    def wait_for_revision(
        self, revision: int, *, data_planes: Iterable[str] = (), timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> WaitForRevisionResponse:
        """Wait until data planes have dealt with a catalog revision, and say what each did.

        Args:
            revision: Catalog revision; at most the newest.
            data_planes: Those to wait for. Empty: every data plane known now.
            timeout_s: How long to wait, in seconds; up to 3600. When it is over the answer says who
            is still PENDING.

        Raises:
            InvalidArgument: The control plane has no such revision yet, or `timeout_s` is negative
            or too long.
        """
        request = _requests.wait_for_revision(revision, data_planes, timeout_s)
        return self._call("WaitForRevision", self._fleet.WaitForRevision, request, timeout_s + WAIT_GRACE_S)

    def wait_until_serving(
        self,
        resource: str,
        *,
        revision: int | None = None,
        require_ready: bool = False,
        timeout_s: float = 600.0,
        on_progress: Callable[[ServingProgress], None] | None = None,
    ) -> ServingProgress:
        """Wait until every connected data plane serves a model or adapter: it is READY there, or
        IDLE.

        A model with `min_replicas` 0 is IDLE as soon as a data plane has it; that its engine can
        start is known after the first request only. While the control plane is away the wait goes
        on.

        Args:
            resource: A model or an adapter.
            revision: Number of the model or adapter revision; a later one will do. None: the
            current one.
            require_ready: Wait until it is READY: IDLE is not enough.
            timeout_s: How long to wait, in seconds.
            on_progress: Called with each state of affairs, about twice a second.

        Raises:
            NotFound: There is no such model or adapter, or no more.
            ServingFailed: A data plane reports FAILED or QUARANTINED, or rejected the snapshot.
            ServingTimeout: It took too long, or no data plane is connected.
        """
        wait = ServingWait(
            revision=revision, timeout_s=timeout_s, started_s=time.monotonic(), require_ready=require_ready
        )
        while True:
            try:
                progress = wait.update(*self._look(resource, wait.rpc_timeout_s(time.monotonic())), time.monotonic())
                if on_progress is not None:
                    on_progress(progress)
                if progress.done:
                    return progress
            except (Unavailable, DeadlineExceeded) as error:
                wait.missed(error)
            wait.raise_if_late(time.monotonic())
            time.sleep(POLL_INTERVAL_S)

    def _look(self, resource: str, timeout_s: float) -> tuple[Model | Adapter, list[DataPlane]]:
        """The resource first: what a data plane is seen to have after that, it surely has."""
        get = self.get_adapter if _requests.is_adapter(resource) else self.get_model
        return get(resource, timeout_s=timeout_s), list(self.list_data_planes(timeout_s=timeout_s))

    # --- every RPC goes through here --------------------------------------------------------------

    def _call(
        self,
        name: str,
        rpc: grpc.UnaryUnaryMultiCallable[_RequestT, _ResponseT],
        request: _RequestT,
        timeout_s: float | None,
    ) -> _ResponseT:
        if self._closed:
            raise RuntimeError("this Client is closed")
        _requests.identify(request)
        try:
            metadata = self._credentials.metadata(self._endpoint)
            return rpc(request, timeout=self._timeout_s if timeout_s is None else timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error, name) from error

    def _pages(
        self,
        name: str,
        rpc: grpc.UnaryUnaryMultiCallable[_PagedRequestT, _PagedResponseT],
        request: _PagedRequestT,
        timeout_s: float | None,
    ) -> Iterator[_PagedResponseT]:
        more = True
        while more:
            response = self._call(name, rpc, request, timeout_s)
            yield response
            more = _requests.advance(request, response, name)
