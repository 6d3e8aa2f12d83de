"""Puts the virtual machine under the real shells, for the length of a run."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Coroutine, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from controlplane.push import cutting
from controlplane.push.flights import Flights
from dataplane.agent import ingress_swap
from dataplane.ingress import relayed_view
from dataplane.sync import keeper
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


_PATCHES: tuple[tuple[Any, str, Any], ...] = (
    (keeper, "asyncio", VIRTUAL_ASYNCIO),
    (keeper, "_SETTLE_INTERVAL_S", SETTLE_S),
    (keeper, "version", lambda _: "simulated"),
    (ingress_swap, "asyncio", VIRTUAL_ASYNCIO),
    (relayed_view, "asyncio", VIRTUAL_ASYNCIO),
    (limits, "COMPACT_BYTES_MIN", COMPACT_BYTES),
    (limits, "COMPACT_RECORDS_MAX", COMPACT_RECORDS),
    (cutting, "CHUNK_BYTES_MAX", CHUNK_BYTES),
    (Flights, "join", _join),
    (catalog_digest, "_element", _element),
)


@contextmanager
def simulated(clock: Clock) -> Iterator[None]:
    """Run the block on the virtual machine, without logs."""
    VIRTUAL_ASYNCIO.attach(clock)
    logs = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    before = [(module, name, getattr(module, name)) for module, name, _ in _PATCHES]
    for module, name, value in _PATCHES:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        structlog.configure(**logs)
