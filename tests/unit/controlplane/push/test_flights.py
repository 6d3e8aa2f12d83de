from __future__ import annotations

import asyncio

import pytest

from controlplane.push.flights import Flights
from tests.unit.controlplane.fleet_world import settle


class Question:
    """Is answered when the test lets it."""

    def __init__(self) -> None:
        self.asked = 0
        self.answered = asyncio.Event()
        self.error: Exception | None = None

    async def ask(self) -> int:
        self.asked += 1
        number = self.asked
        await self.answered.wait()
        if self.error is not None:
            raise self.error
        return number


async def test_those_who_ask_at_the_same_time_share_an_answer_and_later_ones_ask_anew() -> None:
    flights, question = Flights[int](), Question()
    asking = [asyncio.create_task(flights.join("key", question.ask)) for _ in range(10)]
    await settle()
    question.answered.set()
    assert await asyncio.gather(*asking) == [1] * 10
    assert await flights.join("key", question.ask) == 2


async def test_an_error_goes_to_all_who_have_joined_and_is_not_kept() -> None:
    flights, question = Flights[int](), Question()
    question.error = LookupError("gone")
    question.answered.set()
    results = await asyncio.gather(*(flights.join("key", question.ask) for _ in range(3)), return_exceptions=True)
    assert results == [question.error] * 3
    question.error = None
    assert await flights.join("key", question.ask) == 2


async def test_a_caller_that_is_gone_leaves_the_others_their_answer() -> None:
    flights, question = Flights[int](), Question()
    first, second = (asyncio.create_task(flights.join("key", question.ask)) for _ in range(2))
    await settle()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    question.answered.set()
    assert await second == 1
    assert question.asked == 1


async def test_questions_about_different_things_are_asked_apart() -> None:
    flights, question = Flights[int](), Question()
    question.answered.set()
    assert sorted(await asyncio.gather(flights.join("a", question.ask), flights.join("b", question.ask))) == [1, 2]
