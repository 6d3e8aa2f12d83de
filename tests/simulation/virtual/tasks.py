"""Coroutines of the real shells, run in virtual time and without an event loop.

The modules of the shells get `VirtualAsyncio` in place of `asyncio` (`environment.py`). A thread
becomes a pause, after which the call happens at once: so anything may happen before it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from tests.simulation.virtual.clock import Clock, Timer

Result = TypeVar("Result")

THREAD_S = (0.0, 0.02)
"""How long a call waits for its thread: from, to. Seconds."""


class Pause:
    """Awaited by a task that goes on after a while; None: never."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[Pause, None, None]:
        yield self


class Task:
    """A coroutine that is under way."""

    def __init__(
        self,
        clock: Clock,
        coroutine: Coroutine[Any, Any, Result],
        on_done: Callable[[Result], None],
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            clock: Virtual time.
            coroutine: Awaits pauses only.
            on_done: Called with its result.
            on_step: Called after each step.
        """
        self._clock = clock
        self._coroutine = coroutine
        self._on_done: Callable[[Any], None] = on_done
        self._on_step = on_step
        self._timer: Timer | None = None
        self._cancelled = False
        self.is_done = False
        self.guard: Callable[[Callable[[], None]], None] = lambda step: step()
        """Runs each later step, and deals with what it raises."""

    def start(self) -> None:
        """Run it up to its next pause."""
        self.guard(self._step)

    def cancel(self) -> None:
        """End it where it is, as the end of its process would."""
        self._cancelled = True
        if self._timer is not None:
            self._timer.cancel()

    def _step(self) -> None:
        try:
            awaited = self._coroutine.send(None)
        except StopIteration as ended:
            self.is_done = True
            if not self._cancelled:
                self._on_done(ended.value)
        else:
            assert isinstance(awaited, Pause), f"a task awaits {awaited!r}"
            if awaited.seconds is not None and not self._cancelled:
                self._timer = self._clock.after(awaited.seconds, self.start)
        if not self._cancelled:
            self._on_step()


def run_now(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that waits for nothing."""
    try:
        awaited = coroutine.send(None)
    except StopIteration as ended:
        result: Result = ended.value
        return result
    raise AssertionError(f"it waits for {awaited!r}")


class _Event:
    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    async def wait(self) -> bool:
        while not self._set:
            await Pause(0.01)
        return True


class _Lock:
    def __init__(self) -> None:
        self._locked = False

    async def __aenter__(self) -> None:
        while self._locked:
            await Pause(0.001)
        self._locked = True

    async def __aexit__(self, *_: object) -> None:
        self._locked = False


class VirtualAsyncio:
    """The part of `asyncio` that the simulated shells use."""

    Event = _Event
    Lock = _Lock

    def __init__(self) -> None:
        self._clock = Clock("")
        self._random = self._clock.random("threads")

    def attach(self, clock: Clock) -> None:
        """Use the time of another run."""
        self._clock = clock
        self._random = clock.random("threads")

    async def to_thread(self, call: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        await Pause(self._random.uniform(*THREAD_S))
        return call(*arguments, **named)

    async def sleep(self, seconds: float) -> None:
        await Pause(seconds)

    def get_running_loop(self) -> VirtualAsyncio:
        return self

    def time(self) -> float:
        return self._clock.now_s


VIRTUAL_ASYNCIO = VirtualAsyncio()
"""In the place of `asyncio` in the simulated shells. One run at a time is attached to it."""
