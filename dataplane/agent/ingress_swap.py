"""Waits until every ingress replica decides by a snapshot, so that ACTIVE says just that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from dataplane.agent.serve_api import ServeApi
from dataplane.snapshot.snapshot import Position

_log = structlog.get_logger("dataplane.agent.ingress_swap")


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapTiming:
    """Intervals of the wait, in seconds."""

    poll_s: float = 0.02
    """Between two looks at the reports, which cost nothing."""
    list_s: float = 2.0
    """Between two questions to Ray which ingress replicas still live."""
    log_s: float = 10.0
    """Between two lines in the log that name the replicas that lag."""
    stop_s: float = 60.0
    """After this long a replica that still decides by an older snapshot is stopped. The next
    snapshot waits for this one, and the control plane waits 120 s for an answer."""


Positions = Callable[[], Mapping[str, Position | None]]
"""By ingress replica: the snapshot that it says it decides by; None: it has none yet."""


async def until_ingress_decides_by(
    position: Position,
    *,
    positions: Positions,
    serve: ServeApi,
    on_lag: Callable[[str], None],
    timing: SwapTiming,
) -> None:
    """Wait until every ingress replica that lives decides by a snapshot.

    Call it after the snapshot was put into the relay: replicas that start later find it there. A
    silent replica counts, because it may still answer requests. Only Ray says which ones are gone.

    Args:
        position: Of the snapshot.
        positions: What the replicas report.
        serve: Ray Serve.
        on_lag: Told again and again who lags, for people to read.
        timing: Intervals of the wait.
    """
    clock = asyncio.get_running_loop().time
    started = listed_at = logged_at = clock()
    live = await asyncio.to_thread(serve.ingress_replicas)
    while lagging := _lagging(live, position, positions()):
        now = clock()
        if now - logged_at >= timing.log_s:
            logged_at = now
            names = sorted(lagging)
            _log.warning("ingress_lags", revision=position.revision, replicas=names, seconds=round(now - started))
            on_lag(f"ingress replicas that do not decide by it yet: {', '.join(names)}")
        if now - listed_at >= timing.list_s:
            listed_at = now
            live &= await asyncio.to_thread(serve.ingress_replicas)
            if now - started >= timing.stop_s:
                live -= await _not_waited_for(lagging & live, position, positions(), serve)
        await asyncio.sleep(timing.poll_s)


def _lagging(live: frozenset[str], position: Position, positions: Mapping[str, Position | None]) -> frozenset[str]:
    return frozenset(replica for replica in live if positions.get(replica) != position)


async def _not_waited_for(
    lagging: frozenset[str], position: Position, positions: Mapping[str, Position | None], serve: ServeApi
) -> frozenset[str]:
    """Stop the replicas that decide by an older snapshot.

    Returns:
        The others. A replica that has had no snapshot for so long takes the one in the relay, and
        refuses requests until then. One that decides by a newer snapshot than the agent's must not
        be replaced by one that decides by the agent's: what was revoked would come back.
    """
    older = frozenset(replica for replica in lagging if _is_older(positions.get(replica), position))
    for replica in sorted(older):
        _log.error("lagging_ingress_stopped", replica=replica)
        await asyncio.to_thread(serve.stop_ingress_replica, replica)
    return lagging - older


def _is_older(held: Position | None, position: Position) -> bool:
    # Snapshots of two stores have no order. The agent changes the store only if it was told to.
    return held is not None and (held.store_uid != position.store_uid or held.revision < position.revision)
