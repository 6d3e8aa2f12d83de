"""Revocations of keys beside snapshots: the ingress has applied them at once."""

from __future__ import annotations

from collections.abc import Callable

from dataplane.snapshot.revocations.revoked_keys import Addition, RevocationsPosition
from dataplane.sync.revocations.keeper import RelayedRevocations


class SimulatedRevocations:
    """The ingress replicas, as far as revocations go."""

    async def found(self) -> RelayedRevocations:
        return RelayedRevocations()

    async def put(self, addition: Addition) -> None:
        """They apply them."""

    async def until_applied(self, newest: Callable[[], RevocationsPosition]) -> RevocationsPosition:
        return newest()
