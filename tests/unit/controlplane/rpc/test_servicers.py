"""The services: every RPC has a method of its own."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool

from controlplane.rpc.server import SERVICES
from controlplane.rpc.servicers import FleetServicer, RegistryServicer, SnapshotServicer

SERVICERS: dict[str, type] = {
    "RegistryService": RegistryServicer,
    "SnapshotService": SnapshotServicer,
    "FleetService": FleetServicer,
}


@pytest.mark.parametrize("service", SERVICES)
def test_every_rpc_of_a_service_is_served(service: str) -> None:
    descriptor = descriptor_pool.Default().FindServiceByName(service)
    served = vars(SERVICERS[descriptor.name])
    # Inherited methods are the generated ones, which answer UNIMPLEMENTED.
    assert [method.name for method in descriptor.methods if method.name not in served] == []
