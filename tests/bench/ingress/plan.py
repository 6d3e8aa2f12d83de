"""What is measured: the cases, and for each the subjects. Pure.

Not the product of all axes, which would take a day: each axis is varied around one point, a request
of 1 KB that is not streamed, over 16 connections, for a model in a catalog of 1,000 names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tests.bench.ingress import answers
from tests.bench.ingress.served import catalogs

DIRECT, ROUTER, LITELLM, SERVE, SERVE_HAPROXY = "direct", "vllm-router", "litellm", "serve", "serve-haproxy"
FLOOR = "floor"
BARE, FULL, FULL_10, FULL_100K = "ours", "ours-full", "ours-full-10", "ours-full-100k"

SUBJECTS = {
    DIRECT: "the mock engine asked directly; the ceiling of everything below",
    ROUTER: "vllm-router, from PyPI",
    LITELLM: "LiteLLM's proxy, from PyPI",
    SERVE: "Ray Serve with its defaults",
    SERVE_HAPROXY: "Ray Serve with HAProxy, direct ingress, gRPC and its throughput options",
    FLOOR: "a forwarder in Python that does nothing else; the floor of this design",
    BARE: "our ingress, whose catalog has no API key; 1,000 names",
    FULL: "our ingress with an API key, limits of requests and tokens, and metrics; 1,000 names",
    FULL_10: "the same with 10 names",
    FULL_100K: "the same with 100,000 names",
}
"""Each subject has one process that answers, as far as it can be told to."""
NAMES = {BARE: 1_000, FULL: 1_000, FULL_10: 10, FULL_100K: 100_000}

_SLOW = (LITELLM, SERVE)
_SLOW_FACTOR = 2
_PATHS = (DIRECT, ROUTER, LITELLM, SERVE, SERVE_HAPROXY, FLOOR, BARE, FULL)
# Where the others answer nothing, or next to nothing, within seconds.
_STREAM_PATHS = (DIRECT, ROUTER, SERVE, SERVE_HAPROXY, FLOOR, BARE, FULL)
_FAST_PATHS = (DIRECT, ROUTER, SERVE_HAPROXY, FLOOR, BARE, FULL)
_FASTEST_PATHS = (DIRECT, ROUTER, FLOOR, BARE, FULL)
_LARGE_PATHS = (DIRECT, ROUTER, SERVE, FLOOR, BARE, FULL)
"""LiteLLM answers none of 4 MB within seconds, and Serve's gRPC refuses them."""
_CATALOGS = (FULL_10, FULL, FULL_100K)
_OURS = (DIRECT, BARE, FULL)
_KB, _MB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of load."""

    name: str
    answer: str = answers.UNARY
    """Of `answers`."""
    connections: int = 16
    """Each has a request in progress."""
    body_bytes: int = _KB
    model: str = catalogs.BASE
    subjects: tuple[str, ...] = _PATHS
    """Who is measured."""
    is_quick: bool = False
    """Whether a quick run has it."""


CASES = (
    Case(name="unary-c1", connections=1, is_quick=True),
    Case(name="unary-c16", is_quick=True),
    Case(name="unary-c64", connections=64),
    Case(name="unary-c256", connections=256, subjects=_FAST_PATHS),
    Case(name="stream-50-c1", answer="stream-50", connections=1),
    Case(name="stream-50-c16", answer="stream-50", subjects=_STREAM_PATHS, is_quick=True),
    Case(name="stream-50-c64", answer="stream-50", connections=64, subjects=_FAST_PATHS),
    Case(name="stream-50-c256", answer="stream-50", connections=256, subjects=_FASTEST_PATHS),
    Case(name="stream-500-c16", answer="stream-500", subjects=_FASTEST_PATHS, is_quick=True),
    Case(name="stream-8k-c16", answer="stream-8k", subjects=_FASTEST_PATHS),
    Case(name="body-64k-c16", body_bytes=64 * _KB),
    Case(name="body-4m-c16", body_bytes=4 * _MB, subjects=_LARGE_PATHS),
    Case(name="names-c1", connections=1, subjects=_CATALOGS),
    Case(name="names-c16", subjects=_CATALOGS, is_quick=True),
    Case(name="adapter-c1", connections=1, model=catalogs.ADAPTER, subjects=_OURS),
    Case(name="adapter-c16", model=catalogs.ADAPTER, subjects=_OURS, is_quick=True),
    Case(name="adapter-64k-c16", model=catalogs.ADAPTER, body_bytes=64 * _KB, subjects=_OURS),
    Case(name="route-c16", model=catalogs.ROUTE, subjects=_OURS, is_quick=True),
)


def chosen(cases: Iterable[Case], subjects: Collection[str]) -> list[tuple[Case, tuple[str, ...]]]:
    """The chosen cases, each with those of the chosen subjects that it has.

    Args:
        cases: Which.
        subjects: Their names.
    """
    found = [(case, tuple(name for name in case.subjects if name in subjects)) for case in cases]
    return [(case, names) for case, names in found if names]


def seconds_of(subject: str, seconds: int) -> int:
    """How long a subject is measured: longer if it answers a few requests a second."""
    return seconds * _SLOW_FACTOR if subject in _SLOW else seconds


def in_turns(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    """The order of subjects in a round: each round begins with the next one."""
    start = number % len(names)
    return names[start:] + names[:start]
