"""One HTTP request to the ingress and its response."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterable

from dataplane.ingress.admission.load import Lease
from dataplane.openai.asgi import Headers, Receive, Scope, Send, header, send_whole
from dataplane.snapshot.activation import View
from dataplane.snapshot.api_key import ApiKey

_REQUEST_ID_CHARACTERS_MAX = 128
_LINGER_S = 5.0
_LINGER_IDLE_S = 0.5
"""How long a body that is too large is let come in unread, in all and without a byte (nginx:
`lingering_close`)."""


class RequestContext:
    """One request and its response, with what is noted about them on the way."""

    __slots__ = (
        "_model_header",
        "anthropic",
        "api_key",
        "begun",
        "kind",
        "limit_headers",
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

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, view: View | None, started_at: float) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.view = view
        """The view that decides; a request that was held is decided by the one that let it go
        on."""
        self.started_at = started_at
        self.request_id = _request_id(scope)
        self.route = "other"
        """The route's path, as metrics show it."""
        self.route_name = ""
        """Resource name of the `Route` that was asked for; empty: none was."""
        self.kind = "none"
        self.anthropic = False
        self.api_key: ApiKey | None = None
        """Of the caller; None: none was asked for."""
        self.limit_headers: Headers = []
        """What is left of the key's limits."""
        self.status = 500
        self.begun = False
        """Whether the response has begun."""
        self._model_header: bytes | None = None

    def decided_by(self, lease: Lease) -> None:
        """Note what the request was resolved to."""
        self.view = lease.view
        self.kind = "model" if lease.route.adapter is None else "adapter"
        self._model_header = lease.route.model_revision_name.encode()

    async def begin(self, status: int, headers: Headers) -> None:
        """Send status and headers of an engine's answer."""
        self.status = status
        self.begun = True
        headers = headers + self._own_headers() + self.limit_headers
        if self._model_header is not None:
            headers.append((b"x-broadsheet-model", self._model_header))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def send_whole(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a response that the ingress made itself."""
        self.status = status
        self.begun = True
        await send_whole(self.send, status, [*headers, *self._own_headers()], body)

    async def send_and_linger(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a response to a request that is still being sent, and throw away what comes until
        its end or the limit.

        A server that closes a connection with unread bytes in it resets it, and the client loses
        the response.
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
            headers.append((b"x-broadsheet-revision", str(self.view.snapshot.position.revision).encode()))
        if self.route_name:
            headers.append((b"x-broadsheet-route", self.route_name.encode()))
        return headers


def _request_id(scope: Scope) -> str:
    """The caller's own id where it is fit to be logged and passed on, else a new one."""
    asked = header(scope, b"x-request-id")
    if asked is not None and 0 < len(asked) <= _REQUEST_ID_CHARACTERS_MAX and all(0x21 <= c <= 0x7E for c in asked):
        return asked.decode()
    return str(uuid.uuid4())
