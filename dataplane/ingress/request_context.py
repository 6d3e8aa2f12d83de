"""One HTTP request to the ingress, and its response."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping

from dataplane.ingress.admission.load import Lease
from dataplane.ingress.routing import Route
from dataplane.ingress.tokens.request_meter import RequestMeter
from dataplane.openai.asgi import WHOLE_BODY, Headers, Receive, Scope, Send, WholeBody, send_whole
from dataplane.openai.exchange.request_ids import RequestIds
from dataplane.snapshot.activation import View
from dataplane.snapshot.api_key import ApiKey

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left. It appears in metrics only."""

_LINGER_S = 5.0
"""Longest time for which the rest of a body that is too large is read and dropped (nginx:
`lingering_close`)."""
_LINGER_IDLE_S = 0.5
"""The same without a single byte."""


class RequestContext:
    """One request and its response, and what is known about them so far."""

    __slots__ = (
        "_route",
        "anthropic",
        "api_key",
        "before_answer",
        "begun",
        "broke_off",
        "caller",
        "headers",
        "kind",
        "limit_headers",
        "meter",
        "receive",
        "request_id",
        "route",
        "route_name",
        "scope",
        "send",
        "started_at",
        "status",
        "view",
    )

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, ids: RequestIds, view: View | None, started_at: float
    ) -> None:
        self.scope = scope
        self.headers: Mapping[bytes, bytes] = dict(reversed(scope["headers"]))
        """By name in lower case. Of several, the first, which is the one that Starlette and vLLM
        take."""
        self.receive = receive
        self.send = send
        self.view = view
        """The view that decides about the request. After a wait, it is the view that ended the
        wait."""
        self.started_at = started_at
        """On the event loop's clock."""
        self.request_id = ids.of(self.headers.get(b"x-request-id"))
        self.route = "other"
        """The path, as metrics show it."""
        self.route_name = ""
        """Resource name of the `Route` that the caller asked for; empty without one."""
        self.kind = "none"
        """`model`, `adapter`, or `none` before a name was resolved; for metrics."""
        self.anthropic = False
        """Whether the caller expects Anthropic's shape of errors and models."""
        self.api_key: ApiKey | None = None
        """The caller's key; None if no key is needed."""
        self.caller = ""
        """Whom the request counts for, where callers share something."""
        self.meter: RequestMeter | None = None
        """Counts the request's tokens; None: the key has no limit of them."""
        self.limit_headers: Headers = []
        """Response headers with the key's remaining limits."""
        self.before_answer: Callable[[], Awaitable[None]] | None = None
        """Called before an engine's answer begins: it ends what is sent during the wait."""
        self.status = 500
        self.begun = False
        """Whether the response has begun."""
        self.broke_off = False
        """Whether it could not be brought to its end, or ended in an error."""
        self._route: Route | None = None
        """What answers the request; None before that is known."""

    def whole_body(self) -> bytes | None:
        """The body if it has come as a whole; None: it has to be received, which may take time."""
        take: WholeBody | None = self.scope.get("extensions", {}).get(WHOLE_BODY)
        return take() if take is not None else None

    def decided_by(self, lease: Lease) -> None:
        """Note what answers the request."""
        self.view = lease.view
        self.kind = "model" if lease.route.adapter is None else "adapter"
        self._route = lease.route

    async def begin(self, status: int, headers: Headers) -> bool:
        """Send the status and headers of an engine's answer.

        If the response has begun during the wait, a comment names what answers. Returns whether it
        has.
        """
        if self.before_answer is not None:
            await self.before_answer()
        if self.begun:
            model = self._route.answer_header[1] if self._route is not None else b""
            comment = b": x-broadsheet-model: %b\n\n" % model
            await self.send({"type": "http.response.body", "body": comment, "more_body": True})
            return True
        self.status = status
        self.begun = True
        headers = [*headers, *self._own_headers(), *self.limit_headers]
        if self._route is not None:
            headers.append(self._route.answer_header)
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        return False

    async def begin_waiting(self, headers: Headers) -> None:
        """Begin a stream before it is known what answers, or whether anything does."""
        headers = headers + self._own_headers() + self.limit_headers
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        self.status, self.begun = 200, True

    async def send_whole(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a response of the ingress itself."""
        self.status = status
        self.begun = True
        await send_whole(self.send, status, [*headers, *self._own_headers()], body)

    async def send_and_linger(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a response before the request is complete, then drop the rest of the request.

        Closing a connection with unread bytes resets it, and the client would lose the response.
        """
        self.status = status
        self.begun = True
        all_headers = [*headers, *self._own_headers(), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": all_headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while (await asyncio.wait_for(self.receive(), _LINGER_IDLE_S)).get("more_body", False):
                    pass
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def _own_headers(self) -> Headers:
        headers = [(b"x-request-id", self.request_id.encode())]
        if self.view is not None:
            headers.append((b"x-broadsheet-revision", b"%d" % self.view.snapshot.position.revision))
        if self.route_name:
            headers.append((b"x-broadsheet-route", self.route_name.encode()))
        return headers
