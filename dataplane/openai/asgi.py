"""The parts of ASGI that the ingress and the engines share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from types import TracebackType
from typing import Any

# ASGI messages are dicts whose keys depend on their type, so their values are `Any`.
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
"""Names in lower case."""

JSON = (b"content-type", b"application/json")

# What `http_protocol` offers in `scope["extensions"]`, beside ASGI's messages. No other server has
# it.
WHOLE_BODY = "broadsheet.body"
WRITE_NOW = "broadsheet.write"
ON_DISCONNECT = "broadsheet.on_disconnect"
WholeBody = Callable[[], bytes | None]
"""See `exchange.cycle.Cycle.whole_body`."""
WriteNow = Callable[[bytes], bool]
"""See `exchange.cycle.Cycle.write`."""
OnDisconnect = Callable[[Callable[[], None] | None], None]
"""See `exchange.cycle.Cycle.on_disconnect`."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that name (lower case), which is the one that Starlette and vLLM take."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


async def send_whole(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
    """Send a response with a complete body. For HEAD the server leaves the body out."""
    all_headers = [*headers]
    if status != 204:  # RFC 9110 §8.6
        all_headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def answer_lifespan(receive: Receive, send: Send, on_shutdown: Callable[[], Awaitable[None]]) -> None:
    """Answer ASGI's lifespan protocol: nothing at the start, `on_shutdown` at the end."""
    while True:
        message: Mapping[str, Any] = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await on_shutdown()
            await send({"type": "lifespan.shutdown.complete"})
            return


class CancelOnDisconnect:
    """Cancels the work inside its `async with` block when the client goes away.

    The block then ends without an exception, and `disconnected` is true. It cancels and uncancels
    as `asyncio.timeout` does, so a cancellation from outside still passes through.

    Read the request's body before the block, because both may call `receive`. Send the last
    message of the response after the block, because a server reports the end of a response as a
    disconnect too.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._on_disconnect: OnDisconnect | None = scope.get("extensions", {}).get(ON_DISCONNECT)
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None
        self._left = False
        self.disconnected = False

    async def __aenter__(self) -> CancelOnDisconnect:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        if self._on_disconnect is not None:
            self._on_disconnect(self._cancel)
        else:
            self._watcher = asyncio.create_task(self._watch())
        return self

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._cancel()

    def _cancel(self) -> None:
        if not self._left:
            self.disconnected = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._left = True
        if self._on_disconnect is not None:
            self._on_disconnect(None)
        elif self._watcher is not None:
            self._watcher.cancel()
        if not self.disconnected:
            return False
        return self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError
