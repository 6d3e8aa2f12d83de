"""RegistryService, put together from what serves each kind of resource."""

from __future__ import annotations

from broadsheet.v1 import registry_service_pb2_grpc
from controlplane.adapters.files import AdapterReader
from controlplane.rpc.handlers.adapters import AdapterRpcs
from controlplane.rpc.handlers.api_keys import ApiKeyRpcs
from controlplane.rpc.handlers.audit import AuditRpcs
from controlplane.rpc.handlers.idempotency import Changes
from controlplane.rpc.handlers.models import Context, ModelRpcs, ResourceStatuses
from controlplane.rpc.handlers.rollouts import RolloutRpcs
from controlplane.rpc.handlers.routes import RouteRpcs
from controlplane.rpc.handlers.warming import WarmingRpcs
from controlplane.store.store import Store

__all__ = ["Context", "RegistryServicer", "ResourceStatuses"]


class RegistryServicer(
    ModelRpcs,
    RolloutRpcs,
    WarmingRpcs,
    AdapterRpcs,
    RouteRpcs,
    ApiKeyRpcs,
    AuditRpcs,
    registry_service_pb2_grpc.RegistryServiceServicer,
):
    """The registry of models, adapters, routes and API keys, and the log of its changes."""

    def __init__(
        self,
        store: Store,
        adapter_reader: AdapterReader,
        *,
        resource_statuses: ResourceStatuses,
    ) -> None:
        """
        Args:
            store: Where everything is kept.
            adapter_reader: Reads the files of adapters.
            resource_statuses: What each data plane has made of a resource, by resource name.
        """
        self._store = store
        self._adapter_reader = adapter_reader
        self._changes = Changes(store)
        self._resource_statuses = resource_statuses
