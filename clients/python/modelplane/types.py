"""The messages of Modelplane's API, in one place. They are the generated classes of `modelplane.v1`, not copies."""

from __future__ import annotations

from modelplane.v1.adapter_pb2 import Adapter, AdapterCard, AdapterFile, AdapterRevision, AdapterWeights
from modelplane.v1.api_key_pb2 import (
    ApiKey,
    ApiKeyEntry,
    ApiKeyLimits,
    CreateApiKeyResponse,
    RevokeApiKeyResponse,
)
from modelplane.v1.audit_pb2 import AuditEvent, Principal
from modelplane.v1.change_pb2 import FieldChange, ResourceChange
from modelplane.v1.diff_pb2 import DiffSnapshotsResponse
from modelplane.v1.fleet_service_pb2 import DataPlane, DataPlaneOutcome, WaitForRevisionResponse
from modelplane.v1.model_pb2 import (
    Admission,
    Engine,
    Lora,
    Model,
    ModelCard,
    ModelRevision,
    ModelSpec,
    Resources,
    Scaling,
    Source,
)
from modelplane.v1.registry_service_pb2 import (
    DeleteAdapterResponse,
    DeleteModelResponse,
    RegisterAdapterRequest,
    RegisterAdapterResponse,
    RegisterModelRequest,
    RegisterModelResponse,
)
from modelplane.v1.rollback_pb2 import RollbackCatalogResponse
from modelplane.v1.route_pb2 import (
    DeleteRouteResponse,
    Route,
    RouteFallback,
    RouteRevision,
    RouteSpec,
    RouteSticky,
    RouteTarget,
    SetRouteRequest,
    SetRouteResponse,
)
from modelplane.v1.snapshot_pb2 import (
    AdapterEntry,
    AdapterRevisionEntry,
    Entry,
    EntryRef,
    ModelEntry,
    ModelRevisionEntry,
    Position,
    RouteEntry,
)
from modelplane.v1.snapshot_service_pb2 import FetchSnapshotResponse, Phase, SnapshotSummary
from modelplane.v1.status_pb2 import DataPlaneResourceStatus, ResourceState, ResourceStatus

__all__ = [
    "Adapter",
    "AdapterCard",
    "AdapterEntry",
    "AdapterFile",
    "AdapterRevision",
    "AdapterRevisionEntry",
    "AdapterWeights",
    "Admission",
    "ApiKey",
    "ApiKeyEntry",
    "ApiKeyLimits",
    "AuditEvent",
    "CreateApiKeyResponse",
    "DataPlane",
    "DataPlaneOutcome",
    "DataPlaneResourceStatus",
    "DeleteAdapterResponse",
    "DeleteModelResponse",
    "DeleteRouteResponse",
    "DiffSnapshotsResponse",
    "Engine",
    "Entry",
    "EntryRef",
    "FetchSnapshotResponse",
    "FieldChange",
    "Lora",
    "Model",
    "ModelCard",
    "ModelEntry",
    "ModelRevision",
    "ModelRevisionEntry",
    "ModelSpec",
    "Phase",
    "Position",
    "Principal",
    "RegisterAdapterRequest",
    "RegisterAdapterResponse",
    "RegisterModelRequest",
    "RegisterModelResponse",
    "ResourceChange",
    "ResourceState",
    "ResourceStatus",
    "Resources",
    "RevokeApiKeyResponse",
    "RollbackCatalogResponse",
    "Route",
    "RouteEntry",
    "RouteFallback",
    "RouteRevision",
    "RouteSpec",
    "RouteSticky",
    "RouteTarget",
    "Scaling",
    "SetRouteRequest",
    "SetRouteResponse",
    "SnapshotSummary",
    "Source",
    "WaitForRevisionResponse",
]
