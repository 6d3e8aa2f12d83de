"""Addresses as flags and settings have them, `HOST:PORT` or `unix:/path`: which of them others
cannot reach. Pure."""

from __future__ import annotations

import ipaddress

UNIX = "unix:"
"""What an address that is a socket in the file system begins with."""

_SOCKETS = (UNIX, "unix-abstract:")


def host_of(address: str) -> str:
    """The host of `HOST:PORT`, without the brackets of an IPv6 address; empty for a socket in the
    file system."""
    return "" if address.startswith(_SOCKETS) else address.rpartition(":")[0].strip("[]")


def is_local(address: str) -> bool:
    """Whether only this machine reaches `address`: its host is loopback, or it is a socket in the
    file system.

    A name other than `localhost` is not local, whatever it resolves to now: it may resolve to
    anything later.
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
