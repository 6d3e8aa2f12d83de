"""Requests in flight at engine replicas, and the choice of an endpoint for the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Container, Mapping
from random import Random

from dataplane.ingress.admission.front_ends import FrontEndUse
from dataplane.ingress.routing import Route, choose_endpoint
from dataplane.snapshot.activation import Endpoint

_DOWN_S = 1.0
"""How long an endpoint that refused a connection is avoided. The agent takes about as long to
remove it."""


class EndpointUse:
    """Counts requests in flight, and avoids endpoints that refused a connection."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._in_flight: dict[str, int] = {}
        """By replica id; no count is zero."""
        self._applications: dict[str, int] = {}
        """By Serve application; no count is zero."""
        self._down_until: dict[str, float] = {}
        """By replica id, or by URL of a front end of several; on the event loop's clock."""
        self._front_ends = FrontEndUse(random)

    def take(self, route: Route, *, limit: int, avoid: Container[str]) -> Endpoint | None:
        """Choose an endpoint for one request and count it there; None if no endpoint has room.

        Args:
            route: What answers the request. It has an endpoint.
            limit: Requests that one endpoint may have in flight.
            avoid: Replica ids to take only when no other has room, and URLs of their front ends.
        """
        down: Collection[str] = ()
        if self._down_until:
            now = _now()
            down = {name for name, until in self._down_until.items() if until > now}
        endpoint = choose_endpoint(
            route.activation.endpoints,
            self._in_flight,
            limit=limit,
            affinity=route.engine_adapter,
            avoid=avoid,
            down=down,
            randrange=self._random.randrange,
        )
        if endpoint is not None and endpoint.further_urls:
            endpoint = self._front_ends.take(endpoint, avoid=avoid, down=down)
        if endpoint is not None:
            replica_id, application = endpoint.replica_id, route.activation.application
            self._in_flight[replica_id] = self._in_flight.get(replica_id, 0) + 1
            self._applications[application] = self._applications.get(application, 0) + 1
        return endpoint

    def give_back(self, endpoint: Endpoint, application: str) -> None:
        """Stop counting one request."""
        _decrement(self._in_flight, endpoint.replica_id)
        _decrement(self._applications, application)
        if endpoint.further_urls:
            self._front_ends.give_back(endpoint)

    def report_down(self, endpoint: Endpoint) -> float:
        """Avoid an endpoint that refused a connection. Returns for how many seconds.

        Of a replica with several front ends, the one that refused is avoided, and the replica when
        all of them have refused.
        """
        now = _now()
        self._down_until = {name: until for name, until in self._down_until.items() if until > now}
        self._down_until[endpoint.url if endpoint.further_urls else endpoint.replica_id] = now + _DOWN_S
        if all(url in self._down_until for url in endpoint.further_urls):
            self._down_until[endpoint.replica_id] = now + _DOWN_S
        return _DOWN_S

    def applications(self) -> Mapping[str, int]:
        """Requests in flight, by Serve application; applications without one are left out."""
        return dict(self._applications)

    def in_flight(self) -> int:
        """Requests in flight at all endpoints."""
        return sum(self._applications.values())


def _now() -> float:
    """Seconds on the event loop's clock, which is monotonic."""
    return asyncio.get_running_loop().time()


def _decrement(counts: dict[str, int], key: str) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
