"""Calls in both directions between two processes, over a pair of connected sockets."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import Awaitable, Callable

import msgspec
import structlog

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
"""Longest message. The longest in use holds an adapter's entry, which came in an HTTP header of at
most 2 MiB."""
CALLS_MAX = 4096
"""Calls that may wait for their answer at each end."""

_LENGTH = struct.Struct(">I")

_log = structlog.get_logger("dataplane.engine.front_ends")


class ChannelClosed(ConnectionError):
    """The other process has ended, or has closed its end."""


class CallFailed(Exception):
    """The other process could not answer a call."""


class _Message(msgspec.Struct, frozen=True, array_like=True):
    number: int
    """Of the call, counted by its caller."""
    method: str
    """Empty: it is the answer to the call."""
    body: bytes
    error: str = ""
    """Not empty: the call has failed with it."""


class Channel:
    """One end. Each end may call the other at any time; answers come in any order."""

    def __init__(self, connection: socket.socket, answer: Callable[[str, bytes], Awaitable[bytes]]) -> None:
        """
        Args:
            connection: One socket of a connected pair. The channel closes it.
            answer: Answers the other end's calls: gets the method and its argument.
        """
        self._connection = connection
        self._answer = answer
        self._numbers = itertools.count()
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._opened = asyncio.Event()
        self._closed = False

    async def run(self) -> None:
        """Receive until the other end closes. Then every call that waits fails."""
        try:
            reader, self._writer = await asyncio.open_connection(sock=self._connection)
            self._opened.set()
            while True:
                length = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))[0]
                if length > MESSAGE_BYTES_MAX:
                    raise ChannelClosed(f"a message of {length} bytes, allowed are {MESSAGE_BYTES_MAX}")
                self._take(msgspec.msgpack.decode(await reader.readexactly(length), type=_Message))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        except msgspec.MsgspecError as error:
            _log.error("front_end_message_unreadable", error=str(error))
        finally:
            self._close()

    async def call(self, method: str, argument: bytes = b"", *, timeout_s: float | None = None) -> bytes:
        """Call the other end, and return its answer.

        Args:
            method: What to do.
            argument: With what.
            timeout_s: How long to wait, in seconds. None: until it answers or ends.

        Raises:
            ConnectionError: The other end is gone.
            CallFailed: It could not answer, or too many calls wait.
            TimeoutError: It did not answer in time.
        """
        async with asyncio.timeout(timeout_s):
            await self._opened.wait()
            if self._closed:
                raise ChannelClosed
            if len(self._calls) >= CALLS_MAX:
                raise CallFailed(f"{CALLS_MAX} calls wait for an answer already")
            number = next(self._numbers)
            answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            self._calls[number] = answered
            try:
                await self._send(_Message(number, method, argument))
                return await answered
            finally:
                self._calls.pop(number, None)

    def _take(self, message: _Message) -> None:
        if message.method:
            task = asyncio.create_task(self._answer_to(message), name=f"answer {message.method}")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        call = self._calls.get(message.number)
        if call is None or call.done():  # its caller has given up
            return
        if message.error:
            call.set_exception(CallFailed(message.error))
        else:
            call.set_result(message.body)

    async def _answer_to(self, call: _Message) -> None:
        try:
            answer = _Message(call.number, "", await self._answer(call.method, call.body))
        except Exception as error:
            _log.exception("front_end_call_failed", method=call.method)
            answer = _Message(call.number, "", b"", str(error) or type(error).__name__)
        try:
            await self._send(answer)
        except ConnectionError:
            return  # nobody waits for it any more

    async def _send(self, message: _Message) -> None:
        data = msgspec.msgpack.encode(message)
        if len(data) > MESSAGE_BYTES_MAX:
            raise CallFailed(f"a message of {len(data)} bytes, allowed are {MESSAGE_BYTES_MAX}")
        if self._closed or self._writer is None:
            raise ChannelClosed
        self._writer.write(_LENGTH.pack(len(data)) + data)
        await self._writer.drain()

    def _close(self) -> None:
        self._closed = True
        self._opened.set()
        for task in self._answering:
            task.cancel()
        for call in self._calls.values():
            if not call.done():
                call.set_exception(ChannelClosed())
        if self._writer is not None:
            self._writer.close()
        else:
            self._connection.close()
