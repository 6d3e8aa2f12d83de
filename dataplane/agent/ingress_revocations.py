"""Revocations of API keys in the relay: the agent gives them to the ingress, and to the next agent.

The key without a name has the position. The others have uids, in pieces, so that one more
revocation costs a piece and not all of them. Both are put in one call, so whoever reads the
position has the uids up to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import chain

import structlog

from dataplane.agent.ingress_swap import SwapTiming
from dataplane.agent.serve_api import ServeApi
from dataplane.relay.relay import Relay
from dataplane.relay.topics import Key, Topic
from dataplane.snapshot.revocations.revoked_keys import NOTHING_REVOKED, Addition, RevocationsPosition
from dataplane.sync.revocations.keeper import RelayedRevocations

PIECE_UIDS = 1000
"""Uids under one key: 36 kB."""

_log = structlog.get_logger("dataplane.agent.ingress_revocations")

Positions = Callable[[], Mapping[str, RevocationsPosition]]
"""By ingress replica: the revocations that it says it applies."""


class IngressRevocations:
    """The ingress replicas, as far as revocations go. One per agent."""

    def __init__(self, relay: Relay, *, positions: Positions, serve: ServeApi, timing: SwapTiming) -> None:
        """
        Args:
            relay: The agent's.
            positions: What the replicas report.
            serve: Ray Serve.
            timing: Intervals of the wait for the replicas. None is stopped for lagging.
        """
        self._relay = relay
        self._positions = positions
        self._serve = serve
        self._timing = timing
        self._pieces = 0
        """Pieces that are full."""
        self._last: tuple[str, ...] = ()
        """Of the piece that is not."""

    async def found(self) -> RelayedRevocations:
        """What an earlier agent has put into the relay."""
        pieces = (await self._relay.read([Topic.REVOCATIONS])).values(Topic.REVOCATIONS)
        position: RevocationsPosition = pieces.pop("", NOTHING_REVOKED)
        return RelayedRevocations(key_uids=tuple(chain.from_iterable(pieces.values())), position=position)

    async def put(self, addition: Addition) -> None:
        """Put what was added into the relay, for every ingress replica."""
        values: dict[Key, object] = {Key(Topic.REVOCATIONS): addition.position}
        left = self._last + addition.key_uids
        while left:
            piece, left = left[:PIECE_UIDS], left[PIECE_UIDS:]
            values[Key(Topic.REVOCATIONS, f"{self._pieces:06d}")] = piece
            self._last = piece
            if len(piece) == PIECE_UIDS:
                self._pieces += 1
                self._last = ()
        await self._relay.put(values)

    async def until_applied(self, newest: Callable[[], RevocationsPosition]) -> RevocationsPosition:
        """Wait until every ingress replica that lives refuses the keys that are revoked.

        Replicas that start later find them in the relay. A silent replica counts, because it may
        still answer requests. Only Ray says which ones are gone.

        Args:
            newest: What was put last.

        Returns:
            What they apply: at least what was put last when this was called.
        """
        clock = asyncio.get_running_loop().time
        started = listed_at = logged_at = clock()
        live = await asyncio.to_thread(self._serve.ingress_replicas)
        position = newest()
        while lagging := self._lagging(live, position):
            now = clock()
            if now - logged_at >= self._timing.log_s:
                logged_at = now
                seconds = round(now - started)
                _log.warning("ingress_lags_with_revocations", replicas=sorted(lagging), seconds=seconds)
            if now - listed_at >= self._timing.list_s:
                listed_at = now
                live &= await asyncio.to_thread(self._serve.ingress_replicas)
            await asyncio.sleep(self._timing.poll_s)
            if newest().store_uid != position.store_uid:
                # Nobody reports a position of the store before any more.
                position = newest()
        return position

    def _lagging(self, live: frozenset[str], position: RevocationsPosition) -> frozenset[str]:
        reported = self._positions()
        return frozenset(name for name in live if not reported.get(name, NOTHING_REVOKED).covers(position))
