"""Virtual time: what happens next, and when."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

Action = Callable[[], None]


class Timer:
    """Something that is to happen. `cancel` makes it not happen."""

    __slots__ = ("action",)

    def __init__(self, action: Action) -> None:
        self.action: Action | None = action

    def cancel(self) -> None:
        self.action = None


class Clock:
    """A queue of timers. Time passes only from one to the next.

    Timers of the same moment run in the order in which they were set.
    """

    def __init__(self, seed: str) -> None:
        """
        Args:
            seed: Where all randomness of a run comes from.
        """
        self.now_s = 0.0
        self.steps = 0
        """Timers that have run."""
        self._seed = seed
        self._queue: list[tuple[float, int, Timer]] = []
        self._set = 0

    def random(self, purpose: str) -> random.Random:
        """A source of randomness of its own: who uses another one does not change it."""
        return random.Random(f"{self._seed}/{purpose}")

    def after(self, delay_s: float, action: Action) -> Timer:
        """Let `action` happen after so many seconds."""
        timer = Timer(action)
        self._set += 1
        heapq.heappush(self._queue, (self.now_s + delay_s, self._set, timer))
        return timer

    def step(self, until_s: float) -> bool:
        """Run the next timer. Returns False, and runs none, if there is none until `until_s`."""
        queue = self._queue
        while queue and queue[0][0] <= until_s:
            at_s, _, timer = heapq.heappop(queue)
            if timer.action is not None:
                self.now_s = at_s
                self.steps += 1
                timer.action()
                return True
        self.now_s = until_s
        return False
