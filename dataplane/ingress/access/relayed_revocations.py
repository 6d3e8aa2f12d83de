"""Has an ingress replica refuse keys as soon as the relay says that they are revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import chain

from dataplane.ingress.access.api_keys import KeyAccess
from dataplane.relay.relay import Relay
from dataplane.relay.topics import Topic
from dataplane.snapshot.revocations.revoked_keys import RevocationsPosition


class RelayedRevocations:
    """The revocations in the relay. `run` must be running.

    It does not wait for snapshots: to check one may take seconds.
    """

    def __init__(self, relay: Relay, access: KeyAccess, *, on_change: Callable[[], None]) -> None:
        """
        Args:
            relay: Where the agent puts revocations.
            access: Refuses the keys.
            on_change: Called when more keys are refused.
        """
        self._watcher = relay.watcher([Topic.REVOCATIONS])
        self._access = access
        self._on_change = on_change
        self.known = asyncio.Event()
        """Set when all that the relay had at start is refused. No snapshot may be used before: it
        may still have such a key."""

    async def run(self) -> None:
        """Follow the relay. Runs until it is cancelled."""
        while True:
            pieces = (await self._watcher.next()).values(Topic.REVOCATIONS)
            changed = bool(pieces)
            position: RevocationsPosition = pieces.pop("", self._access.revocations)
            self._access.revoke(chain.from_iterable(pieces.values()), position)
            self.known.set()
            if changed:
                self._on_change()
