"""Starts the SIMULATED engine of a replica."""

from __future__ import annotations

import asyncio
import mmap
import time
from collections.abc import Mapping
from random import Random

from dataplane.engine.front_ends.front_ends import FrontEnds
from dataplane.engine.out_of_memory import start_failure_reason
from dataplane.engine.simulated.app import SimulatedEngine, build_app
from dataplane.engine.simulated.front_ends import seats
from dataplane.engine.simulated.settings import SimulatedSettings
from dataplane.errors import EngineStartError


async def start(args: Mapping[str, object], front_ends: FrontEnds) -> SimulatedEngine:
    """Start a simulated engine for a model with these engine args. Takes `start_up_s`.

    Args:
        args: Of the model.
        front_ends: Gets `api_server_count` less one.

    Raises:
        ValueError: the args are wrong.
        EngineStartError: the args ask for a failure, or for more memory than there is.
    """
    settings = SimulatedSettings.from_args(args)
    front_ends.start(seats(settings), settings.api_server_count - 1)
    await asyncio.sleep(settings.start_up_s)
    if settings.fail_start:
        raise EngineStartError(settings.fail_start, reason=start_failure_reason(settings.fail_start))
    _reserve(settings.memory_bytes)
    return build_app(settings, random=Random(), clock=time.monotonic)  # noqa: S311  # it picks failing requests


def _reserve(memory_bytes: int) -> None:
    """Map that much memory, and unmap it."""
    if not memory_bytes:
        return
    try:
        mmap.mmap(-1, memory_bytes).close()
    except OSError as error:
        message = f"{memory_bytes} bytes: {error.strerror}"
        raise EngineStartError(message, reason=start_failure_reason(message)) from error
