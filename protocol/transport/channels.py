"""Options that every gRPC channel to a control plane has."""

from __future__ import annotations

from protocol.addresses import is_local


def proxy_option(target: str) -> tuple[str, int]:
    """Whether the channel to `target` obeys `http_proxy` and its kin.

    A proxy cannot reach the loopback addresses and the sockets of this machine, so connections to
    them never use one.
    """
    return ("grpc.enable_http_proxy", 0 if is_local(target) else 1)
