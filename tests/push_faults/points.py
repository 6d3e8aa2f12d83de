"""The named points at which a process of the test ends itself, or stops.

The code that runs is the real one. The process only wraps one of its functions, so that the signal
comes exactly before or after it.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

VARIABLE = "BROADSHEET_TEST_DIE_AT"
"""`{signal number} {how many times it is passed first} {name of the point}`. Unset: nowhere."""


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a function of a class."""

    owner: type
    function: str
    after: bool = False
    """After it has returned, and not before it runs."""


def arm(points: Mapping[str, Point]) -> None:
    """Wrap the function that the environment names."""
    order = os.environ.get(VARIABLE)
    if not order:
        return
    number, passes, name = order.split(" ", 2)
    point = points[name]
    setattr(
        point.owner,
        point.function,
        _wrapped(getattr(point.owner, point.function), int(number), int(passes), after=point.after),
    )


def order_for(number: signal.Signals, passes: int, name: str) -> dict[str, str]:
    """The environment of a process that gets a signal at a point."""
    return {VARIABLE: f"{number.value} {passes} {name}"}


def _wrapped(function: Callable[..., Any], number: int, passes: int, *, after: bool) -> Callable[..., Any]:
    left = passes

    def reached() -> None:
        nonlocal left
        left -= 1
        if left == -1:
            os.kill(os.getpid(), number)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapped_coroutine(*arguments: Any, **named: Any) -> Any:
            if not after:
                reached()
            result = await function(*arguments, **named)
            if after:
                reached()
            return result

        return wrapped_coroutine

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        if not after:
            reached()
        result = function(*arguments, **named)
        if after:
            reached()
        return result

    return wrapped
