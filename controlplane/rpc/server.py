"""The gRPC server: its port, its limits, health and reflection."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from broadsheet.v1 import (
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
)
from controlplane import errors
from controlplane.metrics.metrics import Metrics
from controlplane.push.sync import SERVER_OPTIONS
from controlplane.rpc.interceptors import Admit, HolderOf, StatusInterceptor, nobody
from controlplane.rpc.measuring import Measuring

RPCS_MAX = 20_000
"""Concurrent RPCs; a Sync stream is one. Others are refused with RESOURCE_EXHAUSTED."""

CONNECTIONS_MAX = 2048
"""Open connections of all clients. An idle one costs 10 KiB of memory, and one with all of the
metadata that is accepted 50 KiB. Each data plane and each client has one."""

_NO_COMPRESSION = 1 << 0
"""A message is unpacked before its caller is known, and 60 KB become 60 MB. Compressed messages are
refused with UNIMPLEMENTED."""

_NO_WINDOW_GROWTH = 0
"""Of a call that its handler does not read yet, gRPC takes 64 KiB. It would take megabytes from a
fast client, so that 200 calls without credentials held 400 MiB."""

_METADATA_BYTES_MAX = 16 * 1024

HANDSHAKE_TIMEOUT_MS = 20_000
"""From the start of a connection until its TLS and its HTTP/2 settings. By default, it is 2
minutes."""

IDLE_TIMEOUT_MS = 5 * 60_000
"""How long a connection may stay without an RPC. Clients connect again when they need to."""

SERVICES = (
    registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name,
    snapshot_service_pb2.DESCRIPTOR.services_by_name["SnapshotService"].full_name,
    fleet_service_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name,
)
"""The services of Broadsheet."""


class Server:
    """A gRPC server with Broadsheet's services, health and reflection."""

    def __init__(
        self,
        *,
        message_bytes_max: int,
        streams_max: int,
        admit: Admit,
        holder_of: HolderOf = nobody,
        connections_max: int = CONNECTIONS_MAX,
        metrics: Metrics | None = None,
    ) -> None:
        """
        Args:
            message_bytes_max: Bytes of the largest message that is accepted.
            streams_max: Concurrent RPCs of one connection.
            admit: Authenticates and authorises each call.
            holder_of: Finds the resource that is served under a name. Default: none is known.
            connections_max: Open connections; another one is closed at once.
            metrics: Where RPCs are counted; None: in metrics that nothing shows.
        """
        self._health = health.aio.HealthServicer()
        self._stopping: asyncio.Task[None] | None = None
        self._interceptor = StatusInterceptor(
            new_error_id=lambda: uuid.uuid4().hex,
            admit=admit,
            holder_of=holder_of,
            measuring=Measuring(metrics or Metrics(clock=time.monotonic), clock=time.monotonic),
        )
        self._server = grpc.aio.server(
            interceptors=(self._interceptor,),
            maximum_concurrent_rpcs=RPCS_MAX,
            options=(
                *SERVER_OPTIONS,
                ("grpc.max_allowed_incoming_connections", connections_max),
                ("grpc.http2.bdp_probe", _NO_WINDOW_GROWTH),
                ("grpc.compression_enabled_algorithms_bitset", _NO_COMPRESSION),
                ("grpc.max_receive_message_length", message_bytes_max),
                ("grpc.max_concurrent_streams", streams_max),
                ("grpc.max_metadata_size", _METADATA_BYTES_MAX),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
                ("grpc.max_connection_idle_ms", IDLE_TIMEOUT_MS),
                # Without this, a second process on the port would silently get some of the calls
                # instead of failing to start.
                ("grpc.so_reuseport", 0),
            ),
        )

    def add(
        self,
        registry: registry_service_pb2_grpc.RegistryServiceServicer,
        snapshots: snapshot_service_pb2_grpc.SnapshotServiceServicer,
        fleet: fleet_service_pb2_grpc.FleetServiceServicer,
    ) -> None:
        """Register the services, health and reflection."""
        # What it lacks is not called.
        server = cast(grpc.aio.Server, _Unlisted(self._server))
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
        snapshot_service_pb2_grpc.add_SnapshotServiceServicer_to_server(snapshots, server)
        fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(fleet, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self, listen: str, credentials: grpc.ServerCredentials | None = None) -> str:
        """Listen, and report all services as healthy.

        Args:
            listen: `HOST:PORT` or `unix:/path`.
            credentials: Those of TLS. None: no TLS.

        Returns:
            The address that it listens on, with the real port in place of port 0.

        Raises:
            errors.SetupError: It cannot listen there.
        """
        try:
            if credentials is None:
                port = self._server.add_insecure_port(listen)
            else:
                port = self._server.add_secure_port(listen, credentials)
        except RuntimeError:
            raise errors.SetupError(f"cannot listen on {listen}; is another process there already?") from None
        await self._server.start()
        for service in ("", *SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"

    async def announce_stop(self) -> None:
        """Report all services as unhealthy, for good, so that watching clients go elsewhere."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Accept no more RPCs, wait for those that run, and cancel them after `grace_s`.

        Health watches and reflection end when no other RPC runs, since they have no end of their
        own.
        """
        # Two concurrent calls of grpc.aio's `stop` crash the process: the second uses the server
        # after it was destroyed.
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace_s))
        await asyncio.shield(self._stopping)

    async def _stop(self, grace_s: float) -> None:
        stopping = asyncio.create_task(self._server.stop(grace_s))
        idle = asyncio.create_task(self._interceptor.idle())
        await asyncio.wait((stopping, idle), return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        self._interceptor.end_watches()
        await stopping


class _Unlisted:
    """A server to which services are added without a list of their methods.

    With the list, grpc.aio waits for the next call of each method by itself: for 50 at a time, and
    anew after each call. That takes 25 µs, a sixth of what a call costs it.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, object]) -> None:
        """The generic handlers know them too."""
