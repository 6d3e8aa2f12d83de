"""Does once what several callers ask for at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Flights(Generic[T]):
    """Calls that are under way, which others join. Results are not kept.

    After a commit, each stream of a fleet asks the same question, and the database is to be asked
    once.
    """

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Task[T]] = {}

    async def join(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the call that is under way for `key`; else of `call`.

        An error goes to all who have joined. A caller that is cancelled leaves the others their
        call.
        """
        flight = self._under_way.get(key)
        if flight is None:
            flight = self._under_way[key] = asyncio.create_task(call())
            flight.add_done_callback(lambda ended: self._end(key, ended))
        return await asyncio.shield(flight)

    def _end(self, key: Hashable, flight: asyncio.Task[T]) -> None:
        del self._under_way[key]
        if not flight.cancelled():
            # Marks the exception as retrieved: all callers may be gone.
            flight.exception()
