"""What counts as one address of callers. Pure."""

from __future__ import annotations

import functools
from ipaddress import IPv6Address, ip_address

_IPV6_NETWORK_BYTES = 8
"""One customer usually has a whole /64, so its addresses count as one."""


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
