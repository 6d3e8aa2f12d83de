"""Who a request counts for: its API key, or its address."""

from __future__ import annotations

import functools
from ipaddress import IPv6Address, ip_address

from dataplane.openai.asgi import Scope
from dataplane.snapshot.api_key import ApiKey

_IPV6_NETWORK_BYTES = 8
"""One customer usually has a whole /64, so its addresses count as one."""


def caller_of(scope: Scope, key: ApiKey | None) -> str:
    """Whom a request counts for, where callers share something.

    Behind a proxy, all callers without a key are one.
    """
    if key is not None:
        return key.uid
    client = scope.get("client")
    return network_of(client[0]) if client else ""


@functools.lru_cache(maxsize=4096)  # addresses of open connections
def network_of(address: str) -> str:
    """What counts as one address: one of IPv4, or one /64 of IPv6."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        mapped = parsed.ipv4_mapped
        return parsed.packed[:_IPV6_NETWORK_BYTES].hex() if mapped is None else str(mapped)
    return str(parsed)
