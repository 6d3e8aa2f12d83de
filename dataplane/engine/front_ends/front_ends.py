"""The further front ends of one engine replica."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

import structlog

from broadsheet.v1 import snapshot_pb2
from dataplane.engine.front_ends import messages
from dataplane.engine.front_ends.front_end import START_TIMEOUT_S, FrontEnd
from dataplane.engine.front_ends.messages import LoadedAdapter
from dataplane.engine.front_ends.process import FrontEndSettings
from dataplane.engine.front_ends.seat import Seat
from dataplane.errors import AdapterError, EngineStartError

RESTARTS_MAX = 4
"""Front ends that are started in place of ended ones in the life of a replica. With the next end
the replica counts as dead: something is wrong that new processes do not mend."""

_log = structlog.get_logger("dataplane.engine.front_ends")


class FrontEnds:
    """Starts them, keeps their number, and speaks to all. Without `start` there are none."""

    def __init__(
        self,
        settings: FrontEndSettings,
        *,
        ensure_adapter: Callable[[snapshot_pb2.AdapterEntry], Awaitable[LoadedAdapter]],
        on_change: Callable[[], None],
        liveness_timeout_s: float,
    ) -> None:
        """
        Args:
            settings: For each of them.
            ensure_adapter: Has the engine load an adapter; raises AdapterError.
            on_change: Called when `urls` or `failed` has changed.
            liveness_timeout_s: One that gives no answer for this long is killed, in seconds.
        """
        self._settings = settings
        self._ensure_adapter = ensure_adapter
        self._on_change = on_change
        self._liveness_timeout_s = liveness_timeout_s
        self._seats: Iterator[Seat] = iter(())
        self._live: list[FrontEnd] = []
        self._watching: set[asyncio.Task[None]] = set()
        self._progress = asyncio.Event()
        self._start_failure: EngineStartError | None = None
        self._complete = False
        """All that were asked for have started once."""
        self._restarts = 0
        self._stopping = False
        self.failed = False
        """Too many have ended. There are fewer than the replica should have, for good."""

    # --- life -------------------------------------------------------------------------------------

    def start(self, seats: Iterable[Seat], count: int) -> None:
        """Start the processes, without waiting until they accept requests.

        Args:
            seats: Places at the engine, `RESTARTS_MAX` more than `count`.
            count: How many to start.

        Raises:
            EngineStartError: The kernel refuses another process.
        """
        self._seats = iter(seats)
        for _ in range(count):
            try:
                self._open()
            except OSError as error:
                raise EngineStartError(f"a front-end process: {error}") from error

    async def ready(self) -> None:
        """Wait until all accept requests. Called once the engine is up.

        Raises:
            EngineStartError: One of them could not start.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while self._start_failure is None and not all(front_end.url for front_end in self._live):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            raise EngineStartError(f"a front-end process did not start within {START_TIMEOUT_S:g} s") from None
        if self._start_failure is not None:
            raise self._start_failure
        self._complete = True

    async def stop(self) -> None:
        """End all. What they have written is still sent."""
        self._stopping = True
        await asyncio.gather(*(front_end.stop() for front_end in self._live))
        await asyncio.gather(*self._watching, return_exceptions=True)

    def kill(self) -> None:
        """`kill -9` all, and their requests with them."""
        self._stopping = True
        for front_end in self._live:
            front_end.kill()

    def _open(self) -> None:
        front_end = FrontEnd(next(self._seats), self._ensure, self._changed)
        front_end.start(self._settings)
        self._live.append(front_end)
        watching = asyncio.create_task(self._watch(front_end), name="front end")
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)

    async def _watch(self, front_end: FrontEnd) -> None:
        hung = await front_end.run(self._liveness_timeout_s)
        self._live.remove(front_end)
        if not self._stopping:
            self._replace(front_end, "front_end_hung" if hung else "front_end_died")
        self._changed()

    def _replace(self, ended: FrontEnd, event: str) -> None:
        log = _log.bind(pid=ended.pid, restarts_left=RESTARTS_MAX - self._restarts)
        if not self._complete:
            self._start_failure = ended.failure or EngineStartError("a front-end process ended while it started")
            return
        if self._restarts == RESTARTS_MAX:
            log.error(event, restarted=False)
            self.failed = True
            return
        self._restarts += 1
        try:
            self._open()
        except OSError as error:
            log.error(event, restarted=False, error=str(error))
            self.failed = True
        else:
            log.error(event, restarted=True)

    def _changed(self) -> None:
        self._progress.set()
        self._on_change()

    # --- all of them ------------------------------------------------------------------------------

    @property
    def urls(self) -> tuple[str, ...]:
        """Where they accept requests."""
        return tuple(front_end.url for front_end in self._live if front_end.url)

    @property
    def pids(self) -> tuple[int, ...]:
        """The ids of their processes."""
        return tuple(front_end.pid for front_end in self._live if front_end.pid is not None)

    @property
    def in_flight_seen(self) -> int:
        """The requests that they handled when they were last asked, which is every 2 s."""
        return sum(front_end.in_flight_seen for front_end in self._live)

    async def in_flight(self) -> int:
        """The requests that they handle now. One that gives no answer has at least one."""
        return sum(await asyncio.gather(*(front_end.in_flight() for front_end in self._live)))

    async def forget_adapter(self, name: str) -> bool:
        """Have them forget an adapter. False: one of them uses it, or may use it."""
        return all(await asyncio.gather(*(front_end.forget_adapter(name) for front_end in self._live)))

    async def _ensure(self, argument: bytes) -> bytes:
        try:
            loaded = await self._ensure_adapter(snapshot_pb2.AdapterEntry.FromString(argument))
        except AdapterError as error:
            return messages.encode(messages.AdapterRefused(error.reason, str(error), error.retry_after_s))
        return messages.encode(loaded)
