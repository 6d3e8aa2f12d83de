"""How both clients reach the control plane: channel options, retries, limits."""

from __future__ import annotations

import json
import re

from broadsheet.v1 import fleet_service_pb2, registry_service_pb2, snapshot_service_pb2

DEFAULT_ENDPOINT = "127.0.0.1:8300"
DEFAULT_TIMEOUT_S = 30.0

PAGE_SIZE = 200
"""Items asked for at a time by methods that list. Fewer round trips than the server's 50; a page of
the largest specs stays far below RECEIVE_BYTES_MAX."""

WAIT_GRACE_S = 10.0
"""A WaitForRevision call may take this much longer than the time it was told to wait."""

SEND_BYTES_MAX = 4 << 20
"""What gRPC servers accept by default. The largest legal request is far smaller."""

RECEIVE_BYTES_MAX = 64 << 20
"""Above the largest page; below what would hurt this process."""

KEEPALIVE_TIME_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
"""A peer that vanished without a word is noticed in 40 s. Only while a call is open: idle clients
send nothing."""

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
"""Tried again when UNAVAILABLE: those that change something carry a request id, which makes them
happen once."""

_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": service, "method": method} for service, method in IDEMPOTENT_METHODS],
            # Four tries within about two seconds: enough for a control plane that restarts, and a
            # person still waits.
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

_LOOPBACK = re.compile(r"(127(\.\d{1,3}){3}|localhost|\[::1\]):\d+")
_ENDPOINT = re.compile(r"\S+:\d{1,5}|(unix|unix-abstract|dns|ipv4|ipv6):\S+")


def check_endpoint(endpoint: str) -> str:
    """`endpoint`, when it can be one.

    Raises:
        ValueError: It is neither `host:port` nor one of gRPC's own URIs.
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
        # A control plane that restarts is found again within seconds, not gRPC's two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # gRPC obeys http_proxy, and a proxy elsewhere cannot reach this machine's own ports.
        ("grpc.enable_http_proxy", 0 if _LOOPBACK.fullmatch(endpoint) else 1),
    ]
