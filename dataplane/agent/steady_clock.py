"""The agent's clock. Pure."""

from __future__ import annotations

from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since the epoch."""


def steady_clock(*, wall: Clock, monotonic: Callable[[], float]) -> Clock:
    """A clock that starts at the time of day and never steps.

    A step of the time of day by an hour would end every countdown and every report at once.

    Args:
        wall: The time of day; it is read once.
        monotonic: Seconds since any moment.
    """
    started_at = wall() - monotonic()
    return lambda: started_at + monotonic()
