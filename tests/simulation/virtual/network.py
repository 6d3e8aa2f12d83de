"""A stream between two ends: two pipes of messages, each in order, bounded, with delays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from tests.simulation.virtual.clock import Clock

Message = TypeVar("Message")

WINDOW_MESSAGES = 4
"""Messages of a pipe that were written and not read. A writer waits for room, as gRPC's does."""

LATENCY_S = (0.001, 0.05)
SLOW_LATENCY_S = (0.5, 4.0)


class Pipe(Generic[Message]):
    """One direction. `None` ends it, after all that was written before."""

    def __init__(self, clock: Clock, name: str) -> None:
        self._clock = clock
        self._random = clock.random(name)
        self._queue: deque[tuple[float, Message | None]] = deque()
        self._last_s = 0.0
        self.latency_s = LATENCY_S
        self.is_cut = False
        self.paused = False
        """Nobody reads."""
        self.twice = False
        """The next message arrives twice."""
        self.on_message: Callable[[Message], None] = lambda _: None
        self.on_end: Callable[[], None] = lambda: None
        self.on_room: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def has_room(self) -> bool:
        return len(self._queue) < WINDOW_MESSAGES

    def write(self, message: Message | None) -> None:
        """Send a message, or the end. What is written to a cut pipe is lost."""
        if self.is_cut:
            return
        assert message is None or self.has_room, "the writer waits for room"
        self._last_s = max(self._last_s, self._clock.now_s + self._random.uniform(*self.latency_s))
        self._queue.append((self._last_s, message))
        self._clock.after(self._last_s - self._clock.now_s, self.read)

    def read(self) -> None:
        """Read one message that has arrived, if the reader reads."""
        queue = self._queue
        if self.paused or self.is_cut or not queue or queue[0][0] > self._clock.now_s:
            return
        message = queue[0][1]
        if self.twice and message is not None:
            self.twice = False
            self._clock.after(0.0, self.read)
        else:
            queue.popleft()
        if message is None:
            self.on_end()
            return
        self.on_message(message)
        self.on_room()

    def resume(self) -> None:
        """The reader reads again."""
        if self.paused:
            self.paused = False
            for _ in range(len(self._queue)):
                self._clock.after(0.0, self.read)

    def cut(self) -> None:
        """Lose what is under way, and what is written from now on."""
        self.is_cut = True
        self._queue.clear()
