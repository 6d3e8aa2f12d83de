"""Metrics of one ingress replica. No label has values that grow with the catalog.

Ingress replicas of a node share a port, so a scrape reaches any of them. Every series has the
replica's id as a label, so that no series mixes replicas; each has gaps instead.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_FIRST_BYTE_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""From a cached embedding to a cold start of a large model."""


class _RequestCounts(Collector):
    """What every request is counted in: plain numbers, which become samples when they are read.

    The library's own counters take a lock and five calls for each request. These are counted and
    read on one event loop.
    """

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self.requests: dict[tuple[str, str, int], int] = defaultdict(int)
        """By route, kind and status."""
        self.first_bytes: dict[str, list[float]] = {}
        """By route: how many in each bucket and above the last, then the sum of their seconds."""

    def observe_first_byte(self, route: str, seconds: float) -> None:
        counts = self.first_bytes.get(route)
        if counts is None:
            counts = self.first_bytes[route] = [0.0] * (len(_FIRST_BYTE_BUCKETS_S) + 2)
        counts[bisect_left(_FIRST_BYTE_BUCKETS_S, seconds)] += 1
        counts[-1] += seconds

    def collect(self) -> Iterator[Metric]:
        """The samples, for the registry."""
        requests = CounterMetricFamily(
            "broadsheet_ingress_requests",
            "Requests answered. kind: model, adapter, or none when no name was resolved; status 499: the client left.",
            labels=("replica", "route", "kind", "status"),
        )
        for (route, kind, status), count in self.requests.items():
            requests.add_metric((self._replica, route, kind, str(status)), count)
        yield requests
        first_byte = HistogramMetricFamily(
            "broadsheet_ingress_time_to_first_byte_seconds",
            "From the request's arrival to the first byte of an engine's answer.",
            labels=("replica", "route"),
        )
        bounds = [*(str(float(bound)) for bound in _FIRST_BYTE_BUCKETS_S), "+Inf"]
        for route, (*counts, seconds) in self.first_bytes.items():
            so_far = [sum(counts[: at + 1]) for at in range(len(counts))]
            first_byte.add_metric((self._replica, route), list(zip(bounds, so_far, strict=True)), seconds)
        yield first_byte


class IngressMetrics:
    """Metrics in a registry of their own: one process may contain several ingresses."""

    def __init__(
        self,
        *,
        replica: str,
        in_flight: Callable[[], float],
        waiting: Callable[[], float],
        revision: Callable[[], float],
        held_body_bytes: Callable[[], float],
    ) -> None:
        self.registry = CollectorRegistry()
        self._replica = replica
        self._counts = _RequestCounts(replica)
        self.registry.register(self._counts)
        self.observe_first_byte = self._counts.observe_first_byte
        """Observe the time to the first byte of an engine's answer: its route, and the seconds."""
        self.cold_starts = Histogram(
            "broadsheet_ingress_cold_start_seconds",
            "From the request's arrival to the first byte, of requests that waited for their model to start.",
            ("replica",),
            buckets=_FIRST_BYTE_BUCKETS_S,
            registry=self.registry,
        ).labels(replica)
        self._refusals = Counter(
            "broadsheet_ingress_refusals",
            "Requests that the ingress answered with an error of its own, by the error's code.",
            ("replica", "code"),
            registry=self.registry,
        )
        self.retries = Counter(
            "broadsheet_ingress_upstream_retries",
            "Requests sent once more because a replica failed before the first byte.",
            ("replica",),
            registry=self.registry,
        ).labels(replica)
        self.fallbacks = Counter(
            "broadsheet_ingress_route_fallbacks",
            "Requests that went on to a fallback of their route.",
            ("replica",),
            registry=self.registry,
        ).labels(replica)
        for name, text, read in (
            ("in_flight", "Requests at engine replicas.", in_flight),
            ("held", "Requests that wait for a replica to start or to have room.", waiting),
            ("held_body_bytes", "Bytes of the bodies of requests in progress, in this process.", held_body_bytes),
            ("snapshot_revision", "Catalog revision of the snapshot that requests are decided by; -1: none.", revision),
        ):
            Gauge(f"broadsheet_ingress_{name}", text, ("replica",), registry=self.registry).labels(
                replica
            ).set_function(read)

    def count_request(self, route: str, kind: str, status: int) -> None:
        """Count one answered request."""
        self._counts.requests[route, kind, status] += 1

    def count_refusal(self, code: str) -> None:
        """Count one error answer of the ingress, by its code."""
        self._refusals.labels(self._replica, code).inc()

    def exposition(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)
