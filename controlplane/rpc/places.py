"""Places for calls of callers that are not known: bounded for each peer, and in all. Pure."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
from collections.abc import Iterator

from controlplane.errors import Reason, ResourceExhausted

_PEERS_MAX = 4096
"""Connections whose address is kept, to find it once for each and not for each call."""

_IPV6_PREFIX_BITS = 64
"""A single host may choose any address with its prefix."""


class Places:
    """A bound on calls of one kind."""

    def __init__(self, what: str, *, in_all_max: int, per_peer_max: int) -> None:
        """
        Args:
            what: Names the calls, in refusals.
            in_all_max: Calls at a time.
            per_peer_max: Calls at a time of one peer.
        """
        self._what = what
        self._in_all_max = in_all_max
        self._per_peer_max = per_peer_max
        self._count = 0
        self._held: dict[str, int] = {}
        """Places that each peer holds. Without those that hold none."""

    @contextlib.contextmanager
    def hold(self, peer: str) -> Iterator[None]:
        """Hold a place within the block.

        Raises:
            ResourceExhausted: none is free for this peer.
        """
        held = self._held.get(peer, 0)
        if held >= self._per_peer_max:
            raise self._refusal(f"{held} {self._what} from {peer}")
        if self._count >= self._in_all_max:
            raise self._refusal(f"{self._count} {self._what}")
        self._count += 1
        self._held[peer] = held + 1
        try:
            yield
        finally:
            self._count -= 1
            self._held[peer] -= 1
            if not self._held[peer]:
                del self._held[peer]

    def _refusal(self, held: str) -> ResourceExhausted:
        return ResourceExhausted(Reason.TOO_MANY_UNKNOWN_CALLERS, f"there are {held}, and no more are let in")


@functools.lru_cache(_PEERS_MAX)
def peer_address(peer: str) -> str:
    """Whom a call counts for, from gRPC's name of its peer, unquoted (`ipv6:[::1]:50000`)."""
    kind, _, rest = peer.partition(":")
    if kind == "unix":
        return kind
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_PREFIX_BITS), strict=False))
