"""What an ingress replica shows of its requests, beside the library's own counting of them."""

from __future__ import annotations

import random

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from dataplane.ingress.metrics import _FIRST_BYTE_BUCKETS_S, IngressMetrics

ROUTES = ("/v1/chat/completions", "/v1/embeddings", "other")
FAMILIES = ("broadsheet_ingress_requests", "broadsheet_ingress_time_to_first_byte_seconds")


def ingress_metrics() -> IngressMetrics:
    return IngressMetrics(
        replica="r1", in_flight=lambda: 1, waiting=lambda: 2, revision=lambda: 3, held_body_bytes=lambda: 4
    )


def shown(exposition: bytes) -> set[str]:
    """The lines of the two families, without the times at which they began."""
    lines = exposition.decode().splitlines()
    return {line for line in lines if any(name in line for name in FAMILIES) and "_created" not in line}


def test_requests_are_shown_as_the_library_would_show_them() -> None:
    metrics, registry, draw = ingress_metrics(), CollectorRegistry(), random.Random(0)
    requests = Counter(
        FAMILIES[0],
        "Requests answered. kind: model, adapter, or none when no name was resolved; status 499: the client left.",
        ("replica", "route", "kind", "status"),
        registry=registry,
    )
    first_bytes = Histogram(
        FAMILIES[1],
        "From the request's arrival to the first byte of an engine's answer.",
        ("replica", "route"),
        buckets=_FIRST_BYTE_BUCKETS_S,
        registry=registry,
    )
    for _ in range(500):
        route, kind, status = draw.choice(ROUTES), draw.choice(("model", "none")), draw.choice((200, 404, 499))
        metrics.count_request(route, kind, status)
        requests.labels("r1", route, kind, str(status)).inc()
        # On a bound and beside it: both are eighths, so that sums are exact.
        seconds = draw.choice((0.0, 0.125, 0.25, 0.5, 1.0, 2.5, 600.0, 601.0))
        metrics.observe_first_byte(route, seconds)
        first_bytes.labels("r1", route).observe(seconds)
    assert len(shown(metrics.exposition())) > 60
    assert shown(metrics.exposition()) == shown(generate_latest(registry))


def test_a_replica_without_requests_shows_that_it_counts_them() -> None:
    assert {line.split()[2] for line in shown(ingress_metrics().exposition())} == {
        "broadsheet_ingress_requests_total",
        "broadsheet_ingress_time_to_first_byte_seconds",
    }
