"""Ends streams that their writers cannot end: the client does not read, or sent no Hello."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from controlplane.push.stream import Stream


class Watch:
    """Looks at all streams now and then. A task for each of them would take 2 kB of memory."""

    def __init__(self, *, clock: Callable[[], float], watch_s: float) -> None:
        """
        Args:
            clock: Seconds of a clock that does not go back.
            watch_s: Between two looks, and how long a stream has for its Goodbye. Seconds.
        """
        self._clock = clock
        self._watch_s = watch_s
        self._readers: dict[Stream, asyncio.Task[None]] = {}
        self._ending: set[Stream] = set()
        """Streams that were to end at the last look."""
        self._next_look: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def over(self, stream: Stream, reading: asyncio.Task[None]) -> Iterator[None]:
        """Watch a stream within the block.

        If its Goodbye cannot be written, `reading` is cancelled, and `Stream.given_up` says why.
        """
        self._readers[stream] = reading
        self._plan()
        try:
            yield
        finally:
            del self._readers[stream]
            self._ending.discard(stream)

    def _plan(self) -> None:
        if self._next_look is None and self._readers:
            self._next_look = asyncio.get_running_loop().call_later(self._watch_s, self._look)

    def _look(self) -> None:
        self._next_look = None
        now_s = self._clock()
        for stream, reading in self._readers.items():
            if not stream.subscription.ending(now_s):
                continue
            if stream in self._ending:
                stream.given_up = True
                reading.cancel()
            self._ending.add(stream)
            stream.wake.set()
        self._plan()
