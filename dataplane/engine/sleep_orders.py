"""Puts the engine of a replica to sleep and wakes it, as the agent orders."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from dataplane.engine.engine import Engine
from dataplane.relay.messages import SleepOrder

_DRAIN_POLL_S = 0.1


class SleepOrders:
    """The last order, and the last that was carried out. One task calls `run`."""

    def __init__(
        self,
        *,
        in_flight: Callable[[], Awaitable[int]],
        on_carried_out: Callable[[], None],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """
        Args:
            in_flight: Counts the requests in the replica, in all its front ends.
            on_carried_out: Called when `carried_out` has changed.
            log: Of the replica.
        """
        self._in_flight = in_flight
        self._on_carried_out = on_carried_out
        self._log = log
        self._ordered = SleepOrder()
        self._due = asyncio.Event()
        self.carried_out = SleepOrder()
        """The last order that the engine follows."""

    @property
    def is_asleep(self) -> bool:
        """Whether the engine sleeps or is to sleep."""
        return self._ordered.asleep or self.carried_out.asleep

    def give(self, order: SleepOrder) -> None:
        """Take an order. One that is replaced before it was begun is left out."""
        self._ordered = order
        self._due.set()

    async def run(self, engine: Engine, engine_in_use: asyncio.Lock) -> None:
        """Carry out orders. The ingress sends no requests here meanwhile. Ends by being cancelled.

        Args:
            engine: The engine of all front ends.
            engine_in_use: Held by whoever needs it awake, and here while that changes.
        """
        while True:
            await self._due.wait()
            self._due.clear()
            order, started = self._ordered, time.monotonic()
            if order == self.carried_out:
                continue
            # Polled: the end of a request is no event. No request comes any more, but one whose
            # ingress replica has died may still run.
            while order.asleep and await self._in_flight():  # noqa: ASYNC110
                await asyncio.sleep(_DRAIN_POLL_S)
            async with engine_in_use:
                if order.asleep and not self.carried_out.asleep:
                    await engine.sleep()
                elif self.carried_out.asleep and not order.asleep:
                    await engine.wake()
                self.carried_out = order
            self._on_carried_out()
            self._log.info(
                "engine_asleep" if order.asleep else "engine_awake", seconds=round(time.monotonic() - started, 2)
            )
