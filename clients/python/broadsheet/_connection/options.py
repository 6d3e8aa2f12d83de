"""Options of the channel to the control plane: retries, limits, keepalive."""

from __future__ import annotations

import json
import re

from broadsheet.v1 import fleet_service_pb2, registry_service_pb2, snapshot_service_pb2
from protocol.transport.channels import proxy_option

DEFAULT_ENDPOINT = "127.0.0.1:8300"
DEFAULT_TIMEOUT_S = 30.0

WAIT_GRACE_S = 10.0
"""How much longer than its own timeout a WaitForRevision call may take, in seconds."""

SEND_BYTES_MAX = 4 << 20
"""The default limit of gRPC servers. The largest valid request is far smaller."""

RECEIVE_BYTES_MAX = 64 << 20
"""Above the largest page, and small beside the memory of this process."""

KEEPALIVE_TIME_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
"""A peer that vanished silently is noticed within 40 s. Only open calls send keepalives."""

_SERVICES = (
    registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"],
    snapshot_service_pb2.DESCRIPTOR.services_by_name["SnapshotService"],
    fleet_service_pb2.DESCRIPTOR.services_by_name["FleetService"],
)

IDEMPOTENT_METHODS = tuple(
    (service.full_name, method.name)
    for service in _SERVICES
    for method in service.methods
    if not (method.client_streaming or method.server_streaming)
)
"""Retried when UNAVAILABLE. Requests that change something carry a request id, so they are carried
out once."""

_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": service, "method": method} for service, method in IDEMPOTENT_METHODS],
            # Four attempts within about two seconds: long enough for the control plane to restart,
            # short enough for a person who waits.
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

# Python makes surrogates of arguments that are not UTF-8.
_ENDPOINT = re.compile(r"[^\s\ud800-\udfff]+:\d{1,5}|(unix|unix-abstract|dns|ipv4|ipv6):[^\s\ud800-\udfff]+")


def check_endpoint(endpoint: str) -> str:
    """Return `endpoint` if it is valid.

    Raises:
        ValueError: It is neither `host:port` nor a URI of gRPC.
    """
    if "://" in endpoint and not endpoint.startswith(("unix:", "dns:")):
        raise ValueError(f"endpoint: got {endpoint!r}; expected host:port without a scheme, such as {DEFAULT_ENDPOINT}")
    if _ENDPOINT.fullmatch(endpoint) is None:
        raise ValueError(f"endpoint: got {endpoint!r}; expected host:port, such as {DEFAULT_ENDPOINT}")
    return endpoint


def channel_options(endpoint: str) -> list[tuple[str, int | str]]:
    """Options of a channel to `endpoint`."""
    return [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.max_send_message_length", SEND_BYTES_MAX),
        ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # A restarted control plane is found within seconds; gRPC's default is up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        proxy_option(endpoint),
    ]
