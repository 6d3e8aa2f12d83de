"""Tries to load adapters that are registered while an engine runs.

Nobody may ask for one soon, and whoever registered it waits to learn whether it loads. Adapters
that were there before the engine are loaded when somebody asks for them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from broadsheet.v1 import snapshot_pb2
from dataplane.errors import AdapterError
from dataplane.openai import wire
from dataplane.relay.messages import LiveAdapters


class NewAdapters:
    """The new adapters of one engine replica. One task calls `run`."""

    def __init__(
        self,
        ensure: Callable[[snapshot_pb2.AdapterEntry], Awaitable[None]],
        *,
        is_asleep: Callable[[], bool],
        clock: Callable[[], float],
        on_tried: Callable[[], None],
    ) -> None:
        """
        Args:
            ensure: Has the engine load an adapter unless it has; raises AdapterError.
            is_asleep: Whether the engine sleeps or is to sleep. Then it is left alone.
            clock: Seconds on a clock that never steps.
            on_tried: Called when `tried` has risen.
        """
        self._ensure = ensure
        self._is_asleep = is_asleep
        self._clock = clock
        self._on_tried = on_tried
        self._live: LiveAdapters | None = None
        self._due = asyncio.Event()
        self.tried = 0
        """Up to this catalog revision, new adapters were tried. 0: there was no list of them."""
        self.engine_in_use = asyncio.Lock()
        """Held while an adapter is tried, so that the engine does not fall asleep meanwhile."""

    def offer(self, live: LiveAdapters) -> None:
        """Note the adapters that are in the catalog now."""
        self._live = live
        self._due.set()

    async def run(self) -> None:
        """Try new adapters, one after another. Ends by being cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            live = self._live
            if live is None or live.catalog_revision <= self.tried:
                continue
            for entry in _new(live, since=self.tried):
                await self._try(entry)
            self.tried = live.catalog_revision
            self._on_tried()

    async def _try(self, entry: snapshot_pb2.AdapterEntry) -> None:
        started = self._clock()
        async with self.engine_in_use:
            if self._is_asleep():
                return
            with contextlib.suppress(AdapterError):  # `ensure` remembers it
                await self._ensure(entry)
        # At most half of the engine's time goes into adapters that nobody has asked for.
        await asyncio.sleep(self._clock() - started)


def _new(live: LiveAdapters, *, since: int) -> list[snapshot_pb2.AdapterEntry]:
    """The adapters that have changed after a catalog revision, from the oldest on.

    Args:
        live: The adapters in the catalog.
        since: The catalog revision. 0: there was no list before, so none of them is new.
    """
    if not since:
        return []
    entries = [wire.decode_adapter(encoded.encode()) for encoded in reversed(live.newest)]
    return [entry for entry in entries if entry.revision.catalog_revision > since]
