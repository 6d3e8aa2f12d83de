"""How long the database takes, by kind of operation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

READ = "read"
"""A transaction that only reads."""
LOOKUP = "lookup"
"""The read of rows by their key, without a transaction of its own."""
CATALOG_WRITE = "catalog_write"
"""A transaction that waits for the lock on the catalog: a group of changes, or compaction."""
UPKEEP_WRITE = "upkeep_write"
"""Reports of data planes, purges, audit retention."""
FLEET_READ = "fleet_read"
"""What control planes on one PostgreSQL learn of each other."""
FLEET_WRITE = "fleet_write"
"""What they tell each other: reports, new streams, heartbeats."""

OPERATIONS = (READ, LOOKUP, CATALOG_WRITE, UPKEEP_WRITE, FLEET_READ, FLEET_WRITE)

MeasureDatabase = Callable[[str, float], None]
"""Called with one of OPERATIONS and its seconds, also when it failed. Must not block or raise."""


def measure_nothing(operation: str, seconds: float) -> None:
    """A MeasureDatabase that drops what it is told."""


@contextmanager
def timed(measure: MeasureDatabase, operation: str) -> Iterator[None]:
    """Measure the block."""
    began_s = time.perf_counter()
    try:
        yield
    finally:
        measure(operation, time.perf_counter() - began_s)
