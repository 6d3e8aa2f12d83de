from __future__ import annotations

import asyncio
import time

import pytest

from dataplane.engine import liveness
from dataplane.engine.liveness import until_silent


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "ASK_INTERVAL_S", 0.01)
    monkeypatch.setattr(liveness, "_SLICE_S", 0.02)


class Engine:
    """An engine that answers each question after some time; what it was asked is counted."""

    def __init__(self) -> None:
        self.asked = 0
        self.takes_s = 0.0
        self.hangs = False
        self.fails = False
        self.given_up = 0

    async def answer(self) -> None:
        self.asked += 1
        try:
            for _ in range(10):  # as an answer that is read, taken apart and handed on
                await asyncio.sleep(3600 if self.hangs else self.takes_s / 10)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.fails:
            raise RuntimeError("no such method")


@pytest.mark.parametrize("fails", [False, True])
async def test_an_engine_that_answers_before_the_deadline_is_alive(fails: bool) -> None:
    engine = Engine()
    engine.takes_s, engine.fails = 0.1, fails
    watching = asyncio.create_task(until_silent(engine.answer, 0.3))
    await asyncio.sleep(0.5)
    assert not watching.done()
    assert engine.asked > 2
    watching.cancel()


async def test_an_engine_that_hangs_is_noticed_after_the_deadline() -> None:
    engine = Engine()
    watching = asyncio.create_task(until_silent(engine.answer, 0.3))
    await asyncio.sleep(0.1)
    assert not watching.done()
    engine.hangs = True
    began = time.monotonic()
    await asyncio.wait_for(watching, 2)
    assert 0.25 < time.monotonic() - began < 1
    assert engine.given_up == 1


async def test_time_in_which_this_process_did_not_run_does_not_count() -> None:
    engine = Engine()
    engine.takes_s = 0.1
    watching = asyncio.create_task(until_silent(engine.answer, 0.3))
    for _ in range(3):
        await asyncio.sleep(0.02)
        time.sleep(0.5)  # noqa: ASYNC251  # the event loop is what is held up
    await asyncio.sleep(0.3)
    assert not watching.done()
    watching.cancel()


async def test_cancelled_watching_cancels_its_probe() -> None:
    engine = Engine()
    engine.hangs = True
    watching = asyncio.create_task(until_silent(engine.answer, 60))
    await asyncio.sleep(0.05)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    await asyncio.sleep(0)
    assert engine.given_up == 1
