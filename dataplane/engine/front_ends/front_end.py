"""One front-end process, as its replica sees it."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
from collections.abc import Awaitable, Callable

import msgspec

from dataplane.engine.front_ends import messages, process
from dataplane.engine.front_ends.channel import CallFailed, Channel
from dataplane.engine.front_ends.process import FrontEndSettings
from dataplane.engine.front_ends.seat import Seat
from dataplane.engine.liveness import until_silent
from dataplane.errors import EngineStartError

START_TIMEOUT_S = 300.0
"""How long it may take to accept requests, once the engine is up."""
LOAD_TIMEOUT_S = 2.0
"""How long a front end may take to say how many requests it has, before its last answer counts."""
_STOP_TIMEOUT_S = 8.0
"""How long it may take to end when it is asked to."""


class FrontEnd:
    """A process that was started with `start`. It lives until `run` returns."""

    def __init__(
        self,
        seat: Seat,
        ensure: Callable[[bytes], Awaitable[bytes]],
        on_ready: Callable[[], None],
    ) -> None:
        """
        Args:
            seat: Its place at the engine.
            ensure: Answers `messages.ENSURE`.
            on_ready: Called when it accepts requests.
        """
        self.url = ""
        """Where it accepts requests; empty: it does not yet, or no longer."""
        self.failure: EngineStartError | None = None
        """Why it could not start."""
        self.in_flight_seen = 0
        """The requests that it had when it was last asked, which is every 2 s."""
        self._seat = seat
        self._ensure = ensure
        self._on_ready = on_ready
        self._ready = asyncio.Event()
        self._process: multiprocessing.process.BaseProcess
        self._channel: Channel

    def start(self, settings: FrontEndSettings) -> None:
        """Start the process. It blocks for some milliseconds.

        Raises:
            OSError: The kernel refuses another process.
        """
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours, self._answer)
        self._process = multiprocessing.get_context("spawn").Process(
            target=process.run, args=(self._seat.opening, settings, theirs), daemon=True, name="front end"
        )
        try:
            self._process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._seat.taken()

    @property
    def pid(self) -> int | None:
        """The id of its process."""
        return self._process.pid

    async def run(self, liveness_timeout_s: float) -> bool:
        """Wait for its end, and have the engine end what it was doing for it.

        Args:
            liveness_timeout_s: It is killed when it has given no answer for this long, in seconds,
                after it has become ready.

        Returns:
            Whether it was killed because it gave no answer, or did not become ready.
        """
        ending = asyncio.create_task(self._channel.run(), name="channel")
        silence = asyncio.create_task(self._until_silent(liveness_timeout_s), name="liveness")
        try:
            await asyncio.wait((ending, silence), return_when=asyncio.FIRST_COMPLETED)
            return not ending.done()
        finally:
            self.url = ""
            silence.cancel()
            ending.cancel()
            self.kill()
            await asyncio.shield(self._bury())

    async def _bury(self) -> None:
        await asyncio.to_thread(self._process.join)
        await self._seat.left()

    async def _until_silent(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._ready.wait()
        except TimeoutError:
            return
        await until_silent(self._ask_load, timeout_s)

    async def _ask_load(self) -> None:
        answer = await self._channel.call(messages.LOAD)
        self.in_flight_seen = msgspec.msgpack.decode(answer, type=messages.Load).in_flight

    async def in_flight(self) -> int:
        """The requests that it handles: what it says, or has said last if it gives no answer."""
        if not self.url:
            return 0
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                await self._ask_load()
        except ConnectionError:
            return 0  # its requests have ended with it
        except (TimeoutError, CallFailed):
            return max(1, self.in_flight_seen)
        return self.in_flight_seen

    async def forget_adapter(self, name: str) -> bool:
        """Whether it has forgotten the adapter. Not if a request uses it, nor without an answer."""
        if not self.url:
            return True  # it knows no adapter yet
        try:
            return await self._channel.call(messages.FORGET, name.encode(), timeout_s=LOAD_TIMEOUT_S) == messages.YES
        except ConnectionError:
            return True
        except (TimeoutError, CallFailed):
            return False

    async def stop(self) -> None:
        """Let it send what is written, and end. It is killed if it does not, or has not started."""
        if not self.url:
            self.kill()
            return
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await self._channel.call(messages.STOP)
                await asyncio.to_thread(self._process.join, _STOP_TIMEOUT_S)
        except (ConnectionError, TimeoutError, CallFailed):
            pass
        self.kill()

    def kill(self) -> None:
        """`kill -9` it."""
        self._process.kill()

    async def _answer(self, method: str, argument: bytes) -> bytes:
        match method:
            case messages.READY:
                self.url = msgspec.msgpack.decode(argument, type=messages.Ready).url
                self._ready.set()
                self._on_ready()
                return b""
            case messages.FAILED:
                failed = msgspec.msgpack.decode(argument, type=messages.StartFailed)
                self.failure = EngineStartError(f"a front-end process: {failed.message}", reason=failed.reason)
                return b""
            case messages.ENSURE:
                return await self._ensure(argument)
        raise ValueError(f"unknown call: {method}")
