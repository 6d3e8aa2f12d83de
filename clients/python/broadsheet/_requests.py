"""What both clients send: arguments made into requests."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from os import PathLike, fspath
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from broadsheet import specs
from broadsheet._channel import PAGE_SIZE
from broadsheet.errors import DataLoss, Internal, InvalidSpec
from broadsheet.types import (
    Adapter,
    AdapterCard,
    Admission,
    Model,
    ModelCard,
    ModelSpec,
    RolloutPolicy,
    RouteSpec,
    Scaling,
    Source,
)
from broadsheet.v1 import (
    api_key_pb2,
    audit_pb2,
    diff_pb2,
    fleet_service_pb2,
    registry_service_pb2,
    rollout_pb2,
    route_pb2,
    snapshot_service_pb2,
    warming_pb2,
)
from protocol import names
from protocol.validation import FieldViolation

_COLLECTIONS = ("models", "routes", "apiKeys", "snapshots", "dataPlanes")
"""First parts of resource names."""


def register_model(
    model_id: str,
    *,
    spec: ModelSpec | Mapping[str, object],
    card: ModelCard | Mapping[str, object] | None,
    served_name: str,
    rollout_policy: RolloutPolicy | Mapping[str, object] | None,
    labels: Mapping[str, str] | None,
    etag: str,
    must_create: bool,
    validate_only: bool,
    request_id: str,
) -> registry_service_pb2.RegisterModelRequest:
    return registry_service_pb2.RegisterModelRequest(
        model_id=model_id,
        served_name=served_name,
        spec=specs.to_message(spec, ModelSpec(), "spec"),
        card=specs.to_message(card, ModelCard(), "card") if card is not None else None,
        rollout_policy=(
            specs.to_message(rollout_policy, RolloutPolicy(), "rollout_policy") if rollout_policy is not None else None
        ),
        labels=labels or {},
        etag=etag,
        must_create=must_create,
        validate_only=validate_only,
        request_id=request_id,
    )


def register_adapter(
    model: str,
    adapter_id: str,
    *,
    source: str | PathLike[str] | Source,
    card: AdapterCard | Mapping[str, object] | None,
    served_name: str,
    labels: Mapping[str, str] | None,
    etag: str,
    must_create: bool,
    validate_only: bool,
    request_id: str,
) -> registry_service_pb2.RegisterAdapterRequest:
    return registry_service_pb2.RegisterAdapterRequest(
        parent=model_resource(model),
        adapter_id=adapter_id,
        served_name=served_name,
        source=source if isinstance(source, Source) else Source(uri=_uri(fspath(source))),
        card=specs.to_message(card, AdapterCard(), "card") if card is not None else None,
        labels=labels or {},
        etag=etag,
        must_create=must_create,
        validate_only=validate_only,
        request_id=request_id,
    )


def update_model(
    model: str,
    *,
    served_name: str | None,
    labels: Mapping[str, str] | None,
    card: ModelCard | Mapping[str, object] | None,
    scaling: Scaling | Mapping[str, object] | None,
    admission: Admission | Mapping[str, object] | None,
    update_mask: Iterable[str] | None,
    etag: str,
    validate_only: bool,
    request_id: str,
) -> registry_service_pb2.UpdateModelRequest:
    given = Model(name=model_resource(model), served_name=served_name or "", labels=labels or {}, etag=etag)
    if card is not None:
        specs.to_message(card, given.revision.card, "card")
    if scaling is not None:
        specs.to_message(scaling, given.revision.spec.scaling, "scaling")
    if admission is not None:
        specs.to_message(admission, given.revision.spec.admission, "admission")
    fields = {
        "served_name": served_name,
        "labels": labels,
        "revision.card": card,
        "revision.spec.scaling": scaling,
        "revision.spec.admission": admission,
    }
    return registry_service_pb2.UpdateModelRequest(
        model=given, update_mask=_mask(update_mask, fields), validate_only=validate_only, request_id=request_id
    )


def update_adapter(
    adapter: str,
    *,
    served_name: str | None,
    labels: Mapping[str, str] | None,
    card: AdapterCard | Mapping[str, object] | None,
    update_mask: Iterable[str] | None,
    etag: str,
    validate_only: bool,
    request_id: str,
) -> registry_service_pb2.UpdateAdapterRequest:
    given = Adapter(name=adapter_resource(adapter), served_name=served_name or "", labels=labels or {}, etag=etag)
    if card is not None:
        specs.to_message(card, given.revision.card, "card")
    fields = {"served_name": served_name, "labels": labels, "revision.card": card}
    return registry_service_pb2.UpdateAdapterRequest(
        adapter=given, update_mask=_mask(update_mask, fields), validate_only=validate_only, request_id=request_id
    )


def _mask(paths: Iterable[str] | None, fields: Mapping[str, object]) -> FieldMask:
    """The mask that was asked for, else that of the fields that were given."""
    given = (path for path, value in fields.items() if value is not None)
    return FieldMask(paths=list(given if paths is None else paths))


def list_models(wanted: str, order_by: str, show_deleted: bool) -> registry_service_pb2.ListModelsRequest:
    return registry_service_pb2.ListModelsRequest(
        page_size=PAGE_SIZE, filter=wanted, order_by=order_by, show_deleted=show_deleted
    )


def list_model_revisions(model: str) -> registry_service_pb2.ListModelRevisionsRequest:
    return registry_service_pb2.ListModelRevisionsRequest(parent=model_resource(model), page_size=PAGE_SIZE)


def list_adapter_revisions(adapter: str) -> registry_service_pb2.ListAdapterRevisionsRequest:
    return registry_service_pb2.ListAdapterRevisionsRequest(parent=adapter_resource(adapter), page_size=PAGE_SIZE)


def list_adapters(
    model: str | None, wanted: str, order_by: str, show_deleted: bool
) -> registry_service_pb2.ListAdaptersRequest:
    parent = "models/-" if model is None else model_resource(model)
    return registry_service_pb2.ListAdaptersRequest(
        parent=parent, page_size=PAGE_SIZE, filter=wanted, order_by=order_by, show_deleted=show_deleted
    )


def set_route(
    route_id: str,
    *,
    spec: RouteSpec | Mapping[str, object],
    served_name: str,
    labels: Mapping[str, str] | None,
    validate_only: bool,
) -> route_pb2.SetRouteRequest:
    return route_pb2.SetRouteRequest(
        route_id=route_id,
        served_name=served_name,
        spec=specs.to_message(spec, RouteSpec(), "spec"),
        labels=labels or {},
        validate_only=validate_only,
    )


def control_rollout(
    model: str,
    action: Literal["PAUSE", "RESUME", "ABORT"],
    *,
    validate_only: bool,
    request_id: str,
) -> rollout_pb2.ControlRolloutRequest:
    return rollout_pb2.ControlRolloutRequest(
        name=model_resource(model),
        action=rollout_pb2.ControlRolloutRequest.Action.Value(f"ACTION_{action}"),
        validate_only=validate_only,
        request_id=request_id,
    )


def warm_model(
    model: str, *, duration_s: float, etag: str, validate_only: bool, request_id: str
) -> warming_pb2.WarmModelRequest:
    return warming_pb2.WarmModelRequest(
        name=model_resource(model),
        duration=_duration(duration_s),
        etag=etag,
        validate_only=validate_only,
        request_id=request_id,
    )


def list_routes() -> route_pb2.ListRoutesRequest:
    return route_pb2.ListRoutesRequest(page_size=PAGE_SIZE)


def list_route_revisions(route: str) -> route_pb2.ListRouteRevisionsRequest:
    return route_pb2.ListRouteRevisionsRequest(parent=route_resource(route), page_size=PAGE_SIZE)


def list_audit_events(
    *,
    resource: str,
    principal: str,
    method: str,
    min_revision: int | None,
    max_revision: int | None,
    start_time: datetime | None,
    end_time: datetime | None,
) -> audit_pb2.ListAuditEventsRequest:
    return audit_pb2.ListAuditEventsRequest(
        resource=any_resource(resource) if resource else "",
        principal=principal,
        method=method,
        min_revision=min_revision,
        max_revision=max_revision,
        start_time=_timestamp(start_time),
        end_time=_timestamp(end_time),
        page_size=PAGE_SIZE,
    )


def create_api_key(
    api_key_id: str,
    *,
    allowed_served_names: Iterable[str],
    requests_per_minute: int,
    tokens_per_minute: int,
    expire_time: datetime | None,
    display_name: str,
    labels: Mapping[str, str] | None,
    validate_only: bool,
) -> api_key_pb2.CreateApiKeyRequest:
    request = api_key_pb2.CreateApiKeyRequest(
        api_key_id=api_key_id,
        display_name=display_name,
        labels=labels or {},
        limits=api_key_pb2.ApiKeyLimits(
            allowed_served_names=allowed_served_names,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        ),
        validate_only=validate_only,
    )
    if expire_time is not None:
        request.expire_time.FromDatetime(expire_time)
    return request


def shown_once(
    request: api_key_pb2.CreateApiKeyRequest, response: api_key_pb2.CreateApiKeyResponse
) -> api_key_pb2.CreateApiKeyResponse:
    """`response`, which has the key in it.

    Raises:
        DataLoss: It has not: a first try was carried out, its answer was lost, and the key is kept
        nowhere.
    """
    if response.key or request.validate_only:
        return response
    raise DataLoss(
        f"{response.api_key.name} was created, but the answer with the key was lost, and nobody has it now; revoke it, "
        "and create another",
        reason="API_KEY_LOST",
        request="CreateApiKey",
    )


def list_api_keys() -> api_key_pb2.ListApiKeysRequest:
    return api_key_pb2.ListApiKeysRequest(page_size=PAGE_SIZE)


def api_key_resource(name_or_id: str) -> str:
    """`apiKeys/{api_key}` from itself or from the id."""
    return name_or_id if name_or_id.startswith("apiKeys/") else names.api_key_name(name_or_id)


def list_snapshots() -> snapshot_service_pb2.ListSnapshotsRequest:
    return snapshot_service_pb2.ListSnapshotsRequest(page_size=PAGE_SIZE)


def fetch_snapshot(revision: int | None) -> snapshot_service_pb2.FetchSnapshotRequest:
    return snapshot_service_pb2.FetchSnapshotRequest(revision=revision, page_size=PAGE_SIZE)


def diff_snapshots(from_revision: int, to_revision: int | None) -> diff_pb2.DiffSnapshotsRequest:
    return diff_pb2.DiffSnapshotsRequest(from_revision=from_revision, to_revision=to_revision, page_size=PAGE_SIZE)


def list_data_planes() -> fleet_service_pb2.ListDataPlanesRequest:
    return fleet_service_pb2.ListDataPlanesRequest(page_size=PAGE_SIZE)


def wait_for_revision(
    revision: int, data_planes: Iterable[str], timeout_s: float
) -> fleet_service_pb2.WaitForRevisionRequest:
    return fleet_service_pb2.WaitForRevisionRequest(
        revision=revision, data_planes=[data_plane_resource(name) for name in data_planes], timeout=_duration(timeout_s)
    )


def model_resource(name_or_id: str) -> str:
    """`models/{model}` from itself or from the id. What is neither goes to the server, which says
    so."""
    return name_or_id if name_or_id.startswith("models/") else names.model_name(name_or_id)


def adapter_resource(name: str) -> str:
    """`models/{model}/adapters/{adapter}` from itself or from `{model}/{adapter}`."""
    if name.startswith("models/"):
        return name
    model_id, _, adapter_id = name.partition("/")
    return names.adapter_name(model_id, adapter_id)


def route_resource(name_or_id: str) -> str:
    """`routes/{route}` from itself or from the id."""
    return name_or_id if name_or_id.startswith("routes/") else names.route_name(name_or_id)


def target_resource(name: str) -> str:
    """What a route refers to, from itself or from `{model}` or `{model}/{adapter}`."""
    if name.startswith(("models/", "routes/")):
        return name
    return adapter_resource(name) if "/" in name else model_resource(name)


def data_plane_resource(name_or_id: str) -> str:
    """`dataPlanes/{data_plane}` from itself or from the id."""
    return name_or_id if name_or_id.startswith("dataPlanes/") else names.data_plane_name(name_or_id)


def any_resource(name: str) -> str:
    """The resource name that `name` stands for: of a model (`m`) or an adapter (`m/a`), if it is
    none already."""
    collection, slash, _ = name.partition("/")
    if not slash:
        return names.model_name(name)
    return name if collection in _COLLECTIONS else adapter_resource(name)


def is_adapter(resource: str) -> bool:
    """Whether a resource name or shorthand is that of an adapter: `models/m/adapters/a` or
    `m/a`."""
    return "/" in resource.removeprefix("models/")


def identify(request: object) -> None:
    """Give a request that changes something an id of its own, unless it has one: sent again, it is
    carried out once."""
    if isinstance(request, _Identified) and not request.request_id:
        request.request_id = str(uuid.uuid4())


@runtime_checkable
class _Identified(Protocol):
    """A request that changes something."""

    request_id: str


class PagedRequest(Protocol):
    """A request for one page of several."""

    page_token: str


class PagedResponse(Protocol):
    """The answer to one."""

    @property
    def next_page_token(self) -> str: ...


def advance(request: PagedRequest, response: PagedResponse, name: str) -> bool:
    """Make `request` ask for the page after `response`; False when that was the last one.

    Raises:
        Internal: The server would send the same page for ever.
    """
    if not response.next_page_token:
        return False
    if response.next_page_token == request.page_token:
        raise Internal("the control plane sent the same page twice", reason="PAGE_REPEATED", request=name)
    request.page_token = response.next_page_token
    return True


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment.astimezone(UTC))
    return timestamp


def _uri(text: str) -> str:
    try:
        return specs.source_uri(text, Path.cwd())
    except ValueError as error:
        violation = FieldViolation(field="source", description=str(error))
        raise InvalidSpec("source is not valid", violations=(violation,)) from error
