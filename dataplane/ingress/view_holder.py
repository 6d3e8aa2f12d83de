"""Holds the view that the requests of a process are decided by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dataplane.snapshot.activation import View

Listener = Callable[[View], None]


class ViewHolder:
    """Holds a reference to the current view. Used from one event loop only.

    A request reads `current` once and keeps the view, so a swap does not affect requests in
    progress.
    """

    def __init__(self) -> None:
        self.current: View | None = None
        """None until the first snapshot has arrived."""
        self._listeners: list[Listener] = []
        self._waiters: set[asyncio.Future[None]] = set()

    def swap(self, view: View) -> None:
        """Make `view` the current view, then call listeners and wake waiters."""
        self.current = view
        for listener in tuple(self._listeners):
            listener(view)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` in each swap, on the event loop. It must not raise.

        Returns a function that ends the subscription; calling it again does nothing.
        """
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    async def changed(self, since: View | None) -> View:
        """Wait until the current view is not `since`, and return it."""
        while self.current is None or self.current is since:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self.current
