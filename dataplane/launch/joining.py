"""Joins a Ray cluster, for a launcher or a command."""

from __future__ import annotations

import os
import socket

from dataplane.launch.environment import prepare_environment
from dataplane.launch.errors import LaunchRefused

_CONNECT_TIMEOUT_S = 10.0


def join(ray_address: str) -> None:
    """Join a Ray cluster that this machine is a node of. Blocks.

    Args:
        ray_address: `auto`, which Ray looks up on this machine, or HOST:PORT.

    Raises:
        LaunchRefused: No cluster answers there, or it lets nobody in without a token.
    """
    check_reachable(ray_address)
    prepare_environment()
    import ray

    from dataplane.relay.actor import RAY_NAMESPACE

    try:
        ray.init(address=ray_address, namespace=RAY_NAMESPACE, log_to_driver=False, logging_level="warning")
    except ConnectionError as error:
        has_token = os.environ.get("RAY_AUTH_MODE") == "token"
        hint = "" if has_token else "; a cluster that `ray start` made requires a token: set RAY_AUTH_MODE=token"
        raise LaunchRefused(f"ray_address: got {ray_address}: {error}{hint}") from error


def leave() -> None:
    """Leave the cluster, if it was joined."""
    import ray

    ray.shutdown()


def check_reachable(ray_address: str) -> None:
    """Check that something listens where a Ray cluster is to be: Ray itself tries for minutes.

    Raises:
        LaunchRefused: Nothing does.
    """
    host, _, port = ray_address.rpartition(":")
    if not host:
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S):
            pass
    except (OSError, OverflowError) as error:
        raise LaunchRefused(f"ray_address: got {ray_address}, where no Ray cluster answers: {error}") from error
