"""Addresses in flags and settings, `HOST:PORT` or `unix:/path`: their host and reach. Pure."""

from __future__ import annotations

import ipaddress

UNIX = "unix:"
"""Prefix of the address of a socket in the file system."""

_SOCKETS = (UNIX, "unix-abstract:")


def host_of(address: str) -> str:
    """The host of `HOST:PORT`, without IPv6 brackets; empty for a socket in the file system."""
    return "" if address.startswith(_SOCKETS) else address.rpartition(":")[0].strip("[]")


def is_local(address: str) -> bool:
    """Whether only this machine can reach `address`: loopback, or a socket in the file system.

    A name other than `localhost` is not local: what it resolves to may change.
    """
    if address.startswith(_SOCKETS):
        return True
    host = host_of(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
