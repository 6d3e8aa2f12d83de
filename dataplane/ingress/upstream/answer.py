"""An engine's answer, as the task of its request has it."""

from __future__ import annotations

from collections.abc import Callable

from dataplane.ingress.upstream.connection import Connection, Write
from dataplane.ingress.upstream.headers import named_by_connection
from dataplane.openai.asgi import Headers

_EVENT_STREAM = b"text/event-stream"


class Answer:
    """An engine's answer: status, headers and the first piece of the body have arrived."""

    __slots__ = ("_connection", "_give_back", "_headers", "_kept_back", "first", "status", "streams_events")

    def __init__(self, connection: Connection, first: bytes, give_back: Callable[[Connection], None]) -> None:
        """
        Args:
            connection: Carries the answer.
            first: The first piece of the body.
            give_back: Takes the connection when nothing more of the answer is needed.
        """
        parsed = connection.answer
        self._connection = connection
        self._give_back = give_back
        self._headers = parsed.headers
        self._kept_back = parsed.kept_back
        self.first = first
        """Empty: the body is empty."""
        self.status = parsed.status
        self.streams_events = parsed.content_type.partition(b";")[0].strip().lower() == _EVENT_STREAM

    def headers(self) -> Headers:
        """The headers that the caller gets. The list is the caller's to change."""
        for name, _ in self._kept_back:
            if name == b"connection":
                dropped = named_by_connection(self._kept_back)
                return [header for header in self._headers if header[0] not in dropped]
        return self._headers

    async def more(self) -> bytes:
        """What has come since, at least one byte; empty at the end.

        Raises:
            UpstreamSilent: nothing came for too long.
            UpstreamFailed: the answer broke off.
        """
        return await self._connection.more()

    async def pass_on(self, write: Write) -> bool:
        """Have the rest written as it comes, in place of `more`.

        `write` is called by the event loop with each piece. What it raises is raised here.

        Returns whether that was all of it. If not, `write` has returned False: wait until it may
        be called again, and then call this again.

        Raises:
            UpstreamSilent: nothing came for too long.
            UpstreamFailed: the answer broke off.
        """
        return await self._connection.pass_on(write)

    def close(self) -> None:
        """Keep the connection if the answer has come to its end.

        Otherwise close it, which stops the engine's work on the request.
        """
        self._give_back(self._connection)
