from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from dataplane.engine.front_ends.front_ends import FrontEnds
from dataplane.engine.front_ends.process import FrontEndSettings
from dataplane.engine.simulated.app import SimulatedEngine
from dataplane.engine.simulated.start import start
from dataplane.errors import EngineStartError


async def started(args: Mapping[str, object]) -> SimulatedEngine:
    """An engine in this process alone."""

    async def nothing_to_load(_: object) -> None:
        raise AssertionError

    front_ends = FrontEnds(
        FrontEndSettings(host="127.0.0.1", secret=""),
        ensure_adapter=nothing_to_load,  # type: ignore[arg-type]  # it is not called
        on_change=lambda: None,
        liveness_timeout_s=1,
    )
    return await start(args, front_ends)


async def test_fail_start_fails_with_its_message_after_start_up_s() -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(EngineStartError, match="out of luck"):
        await started({"fail_start": "out of luck", "start_up_s": 0.05})
    assert loop.time() - begun >= 0.05
    with pytest.raises(ValueError, match="hangs"):
        await started({"hangs": True})


async def test_a_start_with_more_memory_than_there_is_fails_with_out_of_memory() -> None:
    with pytest.raises(EngineStartError, match="140737488355328 bytes: Cannot allocate memory") as raised:
        await started({"memory_bytes": 2**47})
    assert raised.value.reason == "OUT_OF_MEMORY"
    await started({"memory_bytes": 4096})
