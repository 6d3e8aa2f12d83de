"""Keeps a stream open while its request waits: proxies give up on a silent one.

Only comments are sent, which clients skip. So another replica, or a fallback, can still answer.
What is lost is the status: whatever happens after the first comment is within a 200.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from dataplane.ingress.request_context import RequestContext
from dataplane.openai.asgi import Headers

_COMMENT = b": waiting\n\n"
_HEAD: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx passes each piece on at once
]


class Heartbeat:
    """Sends a comment at each interval, from `async with` until the answer begins or its end.

    Until the first comment it is a timer. Most answers begin before that.
    """

    def __init__(self, context: RequestContext, *, interval_s: float) -> None:
        self._context = context
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._begin)
        self._context.before_answer = self._stop

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._beat())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        # The server takes each message at once or not at all, so none is cut in two.
        self._context.before_answer = None
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _beat(self) -> None:
        context = self._context
        await context.begin_waiting(_HEAD)
        while True:
            await context.send({"type": "http.response.body", "body": _COMMENT, "more_body": True})
            await asyncio.sleep(self._interval_s)
