"""The gRPC services of the control plane: each RPC goes to the handler of its resource.

Requests arrive checked by the rules in their protos; `interceptors.py` does that.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio

from broadsheet.v1 import (
    api_key_pb2,
    audit_pb2,
    diff_pb2,
    enrollment_pb2,
    fleet_service_pb2,
    rollback_pb2,
    rollout_pb2,
    route_pb2,
    snapshot_service_pb2,
    warming_pb2,
    waves_pb2,
)
from broadsheet.v1 import registry_service_pb2 as pb
from broadsheet.v1.fleet_service_pb2_grpc import FleetServiceServicer
from broadsheet.v1.registry_service_pb2_grpc import RegistryServiceServicer
from broadsheet.v1.snapshot_service_pb2_grpc import SnapshotServiceServicer
from controlplane.access.enrolled import EnrolledDataPlanes
from controlplane.fleet.fleet import Fleet
from controlplane.rpc.handlers.adapters import AdapterHandler
from controlplane.rpc.handlers.api_keys import ApiKeyHandler
from controlplane.rpc.handlers.audit import AuditHandler
from controlplane.rpc.handlers.enrollment import EnrollmentHandler
from controlplane.rpc.handlers.fleet import FleetHandler
from controlplane.rpc.handlers.models import ModelHandler
from controlplane.rpc.handlers.registry import Registry
from controlplane.rpc.handlers.rollouts import RolloutHandler
from controlplane.rpc.handlers.routes import RouteHandler
from controlplane.rpc.handlers.snapshots import SnapshotHandler
from controlplane.rpc.handlers.warming import WarmingHandler
from controlplane.rpc.handlers.waves import WavesHandler
from controlplane.store.store import Store

Context = grpc.aio.ServicerContext[Any, Any]

Sync = Callable[[AsyncIterator[snapshot_service_pb2.SyncRequest], Context], Awaitable[None]]
"""Serves one Sync stream. `controlplane.push.sync` does."""


class RegistryServicer(RegistryServiceServicer):
    """RegistryService: models, adapters, routes and API keys, and the log of their changes."""

    def __init__(self, registry: Registry) -> None:
        self._models = ModelHandler(registry)
        self._rollouts = RolloutHandler(registry)
        self._warming = WarmingHandler(registry)
        self._adapters = AdapterHandler(registry)
        self._routes = RouteHandler(registry)
        self._api_keys = ApiKeyHandler(registry)
        self._audit = AuditHandler(registry)

    async def RegisterModel(self, request: pb.RegisterModelRequest, context: Context) -> pb.RegisterModelResponse:
        return await self._models.register_model(request)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        return await self._models.get_model(request)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return await self._models.list_models(request)

    async def ListModelRevisions(
        self, request: pb.ListModelRevisionsRequest, context: Context
    ) -> pb.ListModelRevisionsResponse:
        return await self._models.list_model_revisions(request)

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> pb.DeleteModelResponse:
        return await self._models.delete_model(request)

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Context) -> pb.UpdateModelResponse:
        return await self._models.update_model(request)

    async def RollbackModel(self, request: pb.RollbackModelRequest, context: Context) -> pb.RollbackModelResponse:
        return await self._models.rollback_model(request)

    async def UndeleteModel(self, request: pb.UndeleteModelRequest, context: Context) -> pb.UndeleteModelResponse:
        return await self._models.undelete_model(request)

    async def ControlRollout(
        self, request: rollout_pb2.ControlRolloutRequest, context: Context
    ) -> rollout_pb2.ControlRolloutResponse:
        return await self._rollouts.control_rollout(request)

    async def WarmModel(self, request: warming_pb2.WarmModelRequest, context: Context) -> warming_pb2.WarmModelResponse:
        return await self._warming.warm_model(request)

    async def RegisterAdapter(self, request: pb.RegisterAdapterRequest, context: Context) -> pb.RegisterAdapterResponse:
        return await self._adapters.register_adapter(request)

    async def GetAdapter(self, request: pb.GetAdapterRequest, context: Context) -> pb.GetAdapterResponse:
        return await self._adapters.get_adapter(request)

    async def ListAdapters(self, request: pb.ListAdaptersRequest, context: Context) -> pb.ListAdaptersResponse:
        return await self._adapters.list_adapters(request)

    async def DeleteAdapter(self, request: pb.DeleteAdapterRequest, context: Context) -> pb.DeleteAdapterResponse:
        return await self._adapters.delete_adapter(request)

    async def ListAdapterRevisions(
        self, request: pb.ListAdapterRevisionsRequest, context: Context
    ) -> pb.ListAdapterRevisionsResponse:
        return await self._adapters.list_adapter_revisions(request)

    async def UpdateAdapter(self, request: pb.UpdateAdapterRequest, context: Context) -> pb.UpdateAdapterResponse:
        return await self._adapters.update_adapter(request)

    async def RollbackAdapter(self, request: pb.RollbackAdapterRequest, context: Context) -> pb.RollbackAdapterResponse:
        return await self._adapters.rollback_adapter(request)

    async def UndeleteAdapter(self, request: pb.UndeleteAdapterRequest, context: Context) -> pb.UndeleteAdapterResponse:
        return await self._adapters.undelete_adapter(request)

    async def SetRoute(self, request: route_pb2.SetRouteRequest, context: Context) -> route_pb2.SetRouteResponse:
        return await self._routes.set_route(request)

    async def GetRoute(self, request: route_pb2.GetRouteRequest, context: Context) -> route_pb2.GetRouteResponse:
        return await self._routes.get_route(request)

    async def ListRoutes(self, request: route_pb2.ListRoutesRequest, context: Context) -> route_pb2.ListRoutesResponse:
        return await self._routes.list_routes(request)

    async def DeleteRoute(
        self, request: route_pb2.DeleteRouteRequest, context: Context
    ) -> route_pb2.DeleteRouteResponse:
        return await self._routes.delete_route(request)

    async def ListRouteRevisions(
        self, request: route_pb2.ListRouteRevisionsRequest, context: Context
    ) -> route_pb2.ListRouteRevisionsResponse:
        return await self._routes.list_route_revisions(request)

    async def CreateApiKey(
        self, request: api_key_pb2.CreateApiKeyRequest, context: Context
    ) -> api_key_pb2.CreateApiKeyResponse:
        return await self._api_keys.create_api_key(request)

    async def GetApiKey(self, request: api_key_pb2.GetApiKeyRequest, context: Context) -> api_key_pb2.GetApiKeyResponse:
        return await self._api_keys.get_api_key(request)

    async def ListApiKeys(
        self, request: api_key_pb2.ListApiKeysRequest, context: Context
    ) -> api_key_pb2.ListApiKeysResponse:
        return await self._api_keys.list_api_keys(request)

    async def RevokeApiKey(
        self, request: api_key_pb2.RevokeApiKeyRequest, context: Context
    ) -> api_key_pb2.RevokeApiKeyResponse:
        return await self._api_keys.revoke_api_key(request)

    async def ListAuditEvents(
        self, request: audit_pb2.ListAuditEventsRequest, context: Context
    ) -> audit_pb2.ListAuditEventsResponse:
        return await self._audit.list_audit_events(request)


class SnapshotServicer(SnapshotServiceServicer):
    """SnapshotService: pushes snapshots to data planes, and shows them to people."""

    def __init__(self, registry: Registry, sync: Sync) -> None:
        self._snapshots = SnapshotHandler(registry)
        self._sync = sync

    # grpc.aio also accepts a handler that writes to its context; the stubs know only those that
    # yield.
    async def Sync(  # type: ignore[override]
        self, request_iterator: AsyncIterator[snapshot_service_pb2.SyncRequest], context: Context
    ) -> None:
        await self._sync(request_iterator, context)

    async def FetchSnapshot(
        self, request: snapshot_service_pb2.FetchSnapshotRequest, context: Context
    ) -> snapshot_service_pb2.FetchSnapshotResponse:
        return await self._snapshots.fetch_snapshot(request)

    async def ListSnapshots(
        self, request: snapshot_service_pb2.ListSnapshotsRequest, context: Context
    ) -> snapshot_service_pb2.ListSnapshotsResponse:
        return await self._snapshots.list_snapshots(request)

    async def DiffSnapshots(
        self, request: diff_pb2.DiffSnapshotsRequest, context: Context
    ) -> diff_pb2.DiffSnapshotsResponse:
        return await self._snapshots.diff_snapshots(request)

    async def RollbackCatalog(
        self, request: rollback_pb2.RollbackCatalogRequest, context: Context
    ) -> rollback_pb2.RollbackCatalogResponse:
        return await self._snapshots.rollback_catalog(request)


class FleetServicer(FleetServiceServicer):
    """FleetService: the data planes, and what they serve."""

    def __init__(self, store: Store, fleet: Fleet, enrolled: EnrolledDataPlanes | None = None) -> None:
        """
        Args:
            store: Holds what is kept of data planes.
            fleet: What they have reported.
            enrolled: What authentication knows of enrolments. None: no authentication goes by them.
        """
        enrolled = enrolled or EnrolledDataPlanes(store.enrollments, clock=time.monotonic)
        self._fleet = FleetHandler(store, fleet, enrolled)
        self._enrollment = EnrollmentHandler(store, enrolled)
        self._waves = WavesHandler(store, fleet)

    async def ListDataPlanes(
        self, request: fleet_service_pb2.ListDataPlanesRequest, context: Context
    ) -> fleet_service_pb2.ListDataPlanesResponse:
        return await self._fleet.list_data_planes(request)

    async def GetDataPlane(
        self, request: fleet_service_pb2.GetDataPlaneRequest, context: Context
    ) -> fleet_service_pb2.GetDataPlaneResponse:
        return await self._fleet.get_data_plane(request)

    async def WaitForRevision(
        self, request: fleet_service_pb2.WaitForRevisionRequest, context: Context
    ) -> fleet_service_pb2.WaitForRevisionResponse:
        return await self._fleet.wait_for_revision(request)

    async def RemoveDataPlane(
        self, request: fleet_service_pb2.RemoveDataPlaneRequest, context: Context
    ) -> fleet_service_pb2.RemoveDataPlaneResponse:
        return await self._fleet.remove_data_plane(request)

    async def EnrollDataPlane(
        self, request: enrollment_pb2.EnrollDataPlaneRequest, context: Context
    ) -> enrollment_pb2.EnrollDataPlaneResponse:
        return await self._enrollment.enroll_data_plane(request)

    async def RedeemEnrollment(
        self, request: enrollment_pb2.RedeemEnrollmentRequest, context: Context
    ) -> enrollment_pb2.RedeemEnrollmentResponse:
        return await self._enrollment.redeem_enrollment(request)

    async def GetFleetPolicy(
        self, request: waves_pb2.GetFleetPolicyRequest, context: Context
    ) -> waves_pb2.GetFleetPolicyResponse:
        return await self._waves.get_fleet_policy(request)

    async def SetFleetPolicy(
        self, request: waves_pb2.SetFleetPolicyRequest, context: Context
    ) -> waves_pb2.SetFleetPolicyResponse:
        return await self._waves.set_fleet_policy(request)

    async def GetFleetRollout(
        self, request: waves_pb2.GetFleetRolloutRequest, context: Context
    ) -> waves_pb2.GetFleetRolloutResponse:
        return await self._waves.get_fleet_rollout(request)

    async def HaltFleetRollout(
        self, request: waves_pb2.HaltFleetRolloutRequest, context: Context
    ) -> waves_pb2.HaltFleetRolloutResponse:
        return await self._waves.halt_fleet_rollout(request)

    async def ResumeFleetRollout(
        self, request: waves_pb2.ResumeFleetRolloutRequest, context: Context
    ) -> waves_pb2.ResumeFleetRolloutResponse:
        return await self._waves.resume_fleet_rollout(request)

    async def ForceFleetRollout(
        self, request: waves_pb2.ForceFleetRolloutRequest, context: Context
    ) -> waves_pb2.ForceFleetRolloutResponse:
        return await self._waves.force_fleet_rollout(request)
