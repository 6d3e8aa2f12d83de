"""Puts the virtual machine under the real shells, for the length of a run."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Coroutine, Hashable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import structlog

from controlplane.push import cutting
from controlplane.push.flights import Flights
from dataplane.agent import ingress_swap, relayed_snapshot
from dataplane.ingress import relayed_view
from dataplane.sync import keeper, trusted_keys
from dataplane.sync.revocations import keeper as revocations_keeper
from dataplane.sync.stored import limits
from protocol import catalog_digest
from tests.simulation.virtual.clock import Clock
from tests.simulation.virtual.tasks import VIRTUAL_ASYNCIO

CHUNK_BYTES = 700
"""So that catalogs of a few entries have several chunks."""

SETTLE_S = 15.0
"""Between two looks whether a snapshot is proven: fewer than in reality, to save steps."""

COMPACT_BYTES = 3_000
COMPACT_RECORDS = 3
"""So that the log of a few changes is compacted."""

_element = functools.lru_cache(maxsize=100_000)(catalog_digest._element)
"""The same entries are hashed by every process of every run."""


async def _join(_: Flights[Any], key: Hashable, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Nobody else asks at the same time: the call ends at once."""
    return await call()


Patch = tuple[Any, str, Any]

FLIGHTS_OF_ONE: Patch = (Flights, "join", _join)

_PATCHES: tuple[Patch, ...] = (
    (keeper, "asyncio", VIRTUAL_ASYNCIO),
    (keeper, "_SETTLE_INTERVAL_S", SETTLE_S),
    (trusted_keys, "asyncio", VIRTUAL_ASYNCIO),
    (trusted_keys, "random", SimpleNamespace(uniform=lambda low, high: (low + high) / 2)),
    (trusted_keys, "RELOAD_INTERVAL_S", 15.0),
    (revocations_keeper, "asyncio", VIRTUAL_ASYNCIO),
    (keeper, "version", lambda _: "simulated"),
    (ingress_swap, "asyncio", VIRTUAL_ASYNCIO),
    (relayed_snapshot, "asyncio", VIRTUAL_ASYNCIO),
    (relayed_view, "asyncio", VIRTUAL_ASYNCIO),
    (limits, "COMPACT_BYTES_MIN", COMPACT_BYTES),
    (limits, "COMPACT_RECORDS_MAX", COMPACT_RECORDS),
    (cutting, "CHUNK_BYTES_MAX", CHUNK_BYTES),
    FLIGHTS_OF_ONE,
    (catalog_digest, "_element", _element),
)


@contextmanager
def simulated(clock: Clock) -> Iterator[None]:
    """Run the block on the virtual machine, without logs."""
    VIRTUAL_ASYNCIO.attach(clock)
    logs = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with patched(_PATCHES):
            yield
    finally:
        structlog.configure(**logs)


@contextmanager
def patched(patches: Sequence[Patch]) -> Iterator[None]:
    """Put other values in these places, for the length of the block."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for owner, name, value in patches:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
