"""Requests in flight at the front ends of replicas that have several, and the choice of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from random import Random

from dataplane.snapshot.activation import Endpoint


class FrontEndUse:
    """Spreads the requests of each replica over its front ends."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._in_flight: Counter[str] = Counter()
        """By URL; no count is zero."""

    def take(self, endpoint: Endpoint, *, avoid: Container[str], down: Container[str]) -> Endpoint:
        """The endpoint at its least loaded front end, where one request is counted.

        Args:
            endpoint: A replica with several.
            avoid: URLs to take only when the replica has no other.
            down: URLs that refused connections lately. Taken only when all have.
        """
        urls = endpoint.urls
        # Among equals it draws: other ingress replicas choose as well, and know nothing of this.
        first = self._random.randrange(len(urls))
        drawn = (*urls[first:], *urls[:first])
        url = min(drawn, key=lambda url: (url in down, url in avoid, self._in_flight[url]))
        self._in_flight[url] += 1
        others = tuple(other for other in urls if other != url)
        return Endpoint(replica_id=endpoint.replica_id, url=url, further_urls=others)

    def give_back(self, endpoint: Endpoint) -> None:
        """Stop counting one request."""
        self._in_flight[endpoint.url] -= 1
        if not self._in_flight[endpoint.url]:
            del self._in_flight[endpoint.url]
