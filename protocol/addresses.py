"""Addresses in flags and settings, `HOST:PORT` or `unix:/path`: their host and reach. Pure."""

from __future__ import annotations

import ipaddress

UNIX = "unix:"
"""Prefix of the address of a socket in the file system."""

_SOCKETS = (UNIX, "unix-abstract:")

_RESOLVERS = ("dns:///", "dns:", "ipv4:", "ipv6:")
"""What gRPC allows before `HOST:PORT`; longer ones first."""


def host_of(address: str) -> str:
    """The host of `HOST:PORT`, without IPv6 brackets; empty for a socket in the file system."""
    if address.startswith(_SOCKETS):
        return ""
    resolver = next((resolver for resolver in _RESOLVERS if address.startswith(resolver)), "")
    return address.removeprefix(resolver).rpartition(":")[0].strip("[]")


def is_local(address: str) -> bool:
    """Whether only this machine can reach `address`: loopback, or a socket in the file system.

    A name other than `localhost` is not local: what it resolves to may change.
    """
    return address.startswith(_SOCKETS) or is_loopback(host_of(address))


def is_loopback(host: str) -> bool:
    """Whether `host`, without a port and IPv6 brackets, is this machine's loopback."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
