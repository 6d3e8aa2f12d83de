from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable

from controlplane.rpc.interceptors import _each_parsed


class Message:
    """A message that can be referred to weakly."""


async def test_a_stream_that_waits_for_a_message_keeps_none() -> None:
    kept: list[weakref.ref[object]] = []

    async def received() -> AsyncIterator[Callable[[], Message]]:
        def parse() -> Message:
            message = Message()
            kept.append(weakref.ref(message))
            return message

        kept.append(weakref.ref(parse))
        parsers = [parse]
        del parse
        yield parsers.pop()
        await asyncio.Event().wait()

    async def read() -> None:
        async for request in _each_parsed(received()):
            assert isinstance(request, Message)
            del request

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.01)

    assert len(kept) == 2
    assert [reference() for reference in kept] == [None, None]
    reading.cancel()
