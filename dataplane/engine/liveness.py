"""Whether an engine still answers: it is probed repeatedly, each time with a deadline."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

ASK_INTERVAL_S = 2.0
"""Between an answer and the next probe."""
_SLICE_S = 0.5
"""The timeout is counted in waits of this length. If this process itself is stalled, only one of
them elapses, so the engine is not blamed."""


async def until_silent(ask: Callable[[], Awaitable[object]], timeout_s: float) -> None:
    """Probe with `ask` until there is no answer for `timeout_s`. An error is an answer."""
    while True:
        if not await _answers(ask, timeout_s):
            return
        await asyncio.sleep(ASK_INTERVAL_S)


async def _answers(ask: Callable[[], Awaitable[object]], timeout_s: float) -> bool:
    asking = asyncio.ensure_future(ask())
    try:
        for _ in range(math.ceil(timeout_s / _SLICE_S)):
            done, _pending = await asyncio.wait((asking,), timeout=_SLICE_S)
            if done:
                asking.exception()  # retrieved, so that asyncio does not log it
                return True
        return False
    finally:
        asking.cancel()
