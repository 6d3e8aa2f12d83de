from __future__ import annotations

import asyncio

import pytest

from controlplane.push.wake import Wake


async def test_the_task_that_waits_is_woken() -> None:
    wake = Wake()
    waiting = asyncio.create_task(wake.wait())
    await asyncio.sleep(0)
    assert not waiting.done()

    wake.set()
    wake.set()

    await asyncio.wait_for(waiting, 1)
    assert wake.is_set()


async def test_a_task_that_comes_later_passes_until_it_is_cleared() -> None:
    wake = Wake()
    wake.set()
    await asyncio.wait_for(wake.wait(), 1)

    wake.clear()

    assert not wake.is_set()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wake.wait(), 0.01)


async def test_it_is_used_again_after_a_waiter_was_cancelled() -> None:
    wake = Wake()
    waiting = asyncio.create_task(wake.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    # Both in one turn of the loop: the waiter is done, and has not left yet.
    wake.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    wake.clear()
    again = asyncio.create_task(wake.wait())
    await asyncio.sleep(0)
    wake.set()
    await asyncio.wait_for(again, 1)
