"""A signal that something about the fleet has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Listener = Callable[[str | None], None]
"""Called with the id of the data plane that has changed; None: the head has."""


class Changed:
    """Wakes every task that waits, once for each change, and tells listeners what has changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        """Replaced when it is set, so that a task that waits again waits for a later change."""
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Call `listener` at each change. It must not block or raise."""
        self._listeners.append(listener)

    def notify(self, data_plane_id: str | None) -> None:
        """Something has changed about a data plane; None: the head has."""
        for listener in self._listeners:
            listener(data_plane_id)
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next change."""
        await self._event.wait()
