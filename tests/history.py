"""Checks that concurrent writes can be explained one by one, in the order of revisions. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A write that was acknowledged."""

    value: str
    """The value that it wrote. No other write has the same."""
    began_s: float
    """When its first attempt was sent."""
    ended_s: float
    """When the acknowledgement was received."""
    revision: int
    """The catalog revision that the acknowledgement named."""


def violations(writes: Sequence[Write], found: Mapping[int, str], head: int) -> list[str]:
    """What is wrong with a history.

    Empty: it is linear, without gaps, and has every acknowledged write once.

    Args:
        writes: Every write that was acknowledged.
        found: The value of each catalog revision that the registry holds in the end.
        head: Its newest catalog revision.
    """
    return [*_numbers(found, head), *_once(writes, found), *_real_time(writes)]


def _numbers(found: Mapping[int, str], head: int) -> Iterable[str]:
    for revision in sorted(set(range(1, head + 1)) ^ set(found)):
        yield f"revision {revision}: a gap, or beyond the head {head}"
    for value, count in Counter(found.values()).items():
        if count > 1:
            yield f"{value}: there {count} times"


def _once(writes: Sequence[Write], found: Mapping[int, str]) -> Iterable[str]:
    for write in writes:
        if found.get(write.revision) != write.value:
            yield f"{write.value}: acknowledged at {write.revision}, where {found.get(write.revision)} is"
    for value in set(found.values()) - {write.value for write in writes}:
        yield f"{value}: there, and never acknowledged"


def _real_time(writes: Sequence[Write]) -> Iterable[str]:
    """A write that ended before another began comes before it."""
    latest: Write | None = None
    for write in sorted(writes, key=lambda write: write.revision):
        if latest is not None and write.ended_s < latest.began_s:
            yield f"{write.value} at {write.revision} ended before {latest.value} at {latest.revision} began"
        if latest is None or write.began_s > latest.began_s:
            latest = write
