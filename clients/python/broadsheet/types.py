"""The messages of Broadsheet's API, in one place. They are the generated classes of
`broadsheet.v1`, not copies."""

from __future__ import annotations

from broadsheet.v1.adapter_pb2 import Adapter, AdapterCard, AdapterFile, AdapterRevision, AdapterWeights
from broadsheet.v1.api_key_pb2 import (
    ApiKey,
    ApiKeyEntry,
    ApiKeyLimits,
    CreateApiKeyResponse,
    RevokeApiKeyResponse,
)
from broadsheet.v1.audit_pb2 import AuditEvent, Principal
from broadsheet.v1.change_pb2 import FieldChange, ResourceChange
from broadsheet.v1.diff_pb2 import DiffSnapshotsResponse
from broadsheet.v1.fleet_service_pb2 import DataPlane, DataPlaneOutcome, WaitForRevisionResponse
from broadsheet.v1.model_pb2 import (
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
from broadsheet.v1.registry_service_pb2 import (
    DeleteAdapterResponse,
    DeleteModelResponse,
    RegisterAdapterRequest,
    RegisterAdapterResponse,
    RegisterModelRequest,
    RegisterModelResponse,
    RollbackAdapterResponse,
    RollbackModelResponse,
    UndeleteAdapterResponse,
    UndeleteModelResponse,
    UpdateAdapterResponse,
    UpdateModelResponse,
)
from broadsheet.v1.rollback_pb2 import RollbackCatalogResponse
from broadsheet.v1.rollout_pb2 import CanaryStep, ControlRolloutResponse, Rollout, RolloutPolicy
from broadsheet.v1.route_pb2 import (
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
from broadsheet.v1.snapshot_pb2 import (
    AdapterEntry,
    AdapterRevisionEntry,
    Entry,
    EntryRef,
    ModelEntry,
    ModelRevisionEntry,
    Position,
    RouteEntry,
)
from broadsheet.v1.snapshot_service_pb2 import FetchSnapshotResponse, Phase, SnapshotSummary
from broadsheet.v1.status_pb2 import ColdStart, DataPlaneResourceStatus, ResourceState, ResourceStatus
from broadsheet.v1.warming_pb2 import WarmModelResponse

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
    "CanaryStep",
    "ColdStart",
    "ControlRolloutResponse",
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
    "RollbackAdapterResponse",
    "RollbackCatalogResponse",
    "RollbackModelResponse",
    "Rollout",
    "RolloutPolicy",
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
    "UndeleteAdapterResponse",
    "UndeleteModelResponse",
    "UpdateAdapterResponse",
    "UpdateModelResponse",
    "WaitForRevisionResponse",
    "WarmModelResponse",
]
