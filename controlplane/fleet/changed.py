"""A signal that something about the fleet has changed."""

from __future__ import annotations

import asyncio


class Changed:
    """Wakes every task that waits, once for each change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        """Replaced when it is set, so that a task that waits again waits for a later change."""

    def notify(self) -> None:
        """Something has changed."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next change."""
        await self._event.wait()
