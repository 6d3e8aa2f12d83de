"""Turns: a bound on what happens at a time, for each peer and in all. Others wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator


class Turns:
    """Lets so many in at a time. The others wait in the order in which they came."""

    def __init__(self, *, in_all_max: int, per_peer_max: int) -> None:
        """
        Args:
            in_all_max: At a time.
            per_peer_max: At a time of one peer.
        """
        self._in_all = asyncio.Semaphore(in_all_max)
        self._per_peer_max = per_peer_max
        self._of_peer: dict[str, asyncio.Semaphore] = {}
        self._users: Counter[str] = Counter()
        """Who has a turn or waits for one. A peer without any is forgotten."""

    @contextlib.asynccontextmanager
    async def turn(self, peer: str) -> AsyncIterator[None]:
        """Have a turn within the block."""
        own = self._of_peer.setdefault(peer, asyncio.Semaphore(self._per_peer_max))
        self._users[peer] += 1
        try:
            async with own, self._in_all:
                yield
        finally:
            self._users[peer] -= 1
            if not self._users[peer]:
                del self._users[peer], self._of_peer[peer]
