"""Where a process keeps the view that its requests are decided by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dataplane.snapshot.activation import View

Listener = Callable[[View], None]


class ViewHolder:
    """Holds the current view by reference. Used from one event loop only.

    A request reads `current` once and keeps what it got, so that a swap never changes a request
    under way.
    """

    def __init__(self) -> None:
        self.current: View | None = None
        """None until the first snapshot is there."""
        self._listeners: list[Listener] = []
        self._waiters: set[asyncio.Future[None]] = set()

    def swap(self, view: View) -> None:
        """Make `view` the current one, then tell listeners and waiters."""
        self.current = view
        for listener in tuple(self._listeners):
            listener(view)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` called within each swap, on the event loop; it must not raise.

        Returns what ends that; calling it again does nothing.
        """
        self._listeners.append(listener)

        def leave() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return leave

    async def changed(self, since: View | None) -> View:
        """Wait until the current view is another than `since`, and return it."""
        while self.current is None or self.current is since:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self.current
