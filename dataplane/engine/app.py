"""The app in front of an engine's own: checks the secret, loads the adapter, notes the call.

The engine's app gets the request unchanged. While it is handled, `CURRENT_CALL` says what the
caller asked for. It is a context variable, so the tasks that the engine starts have it too.
"""

from __future__ import annotations

import contextvars
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec

from broadsheet.v1 import snapshot_pb2
from dataplane.errors import AdapterError
from dataplane.openai import error_answers, wire
from dataplane.openai import errors as openai_errors
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.openai.asgi import JSON, AsgiApp, Receive, Scope, Send, send_whole

_SERVED_NAME_HEADER = wire.SERVED_NAME_HEADER.encode()
_ADAPTER_HEADER = wire.ADAPTER_HEADER.encode()
_ADAPTER_FAILED = (wire.ADAPTER_FAILED_HEADER.encode(), b"1")
_HAD_REQUEST = (wire.ENGINE_HAD_REQUEST_HEADER.encode(), b"1")


@dataclass(frozen=True, slots=True)
class Call:
    """What a request asks for."""

    served_name: str
    """The name that the caller used. The answer carries it."""
    adapter: str | None
    """The engine-side name of the adapter; None: the base model."""


CURRENT_CALL: contextvars.ContextVar[Call | None] = contextvars.ContextVar("broadsheet_call", default=None)


class ReplicaApp:
    """ASGI app: requires the secret, loads the adapter, counts, and passes on to `inner`.

    Args:
        inner: The engine's own app.
        secret: What `authorization: Bearer` has to carry.
        ensure_adapter: The engine has loaded an adapter when it returns; raises AdapterError.
        is_alive: Whether the engine's processes run.
    """

    def __init__(
        self,
        inner: AsgiApp,
        *,
        secret: str,
        ensure_adapter: Callable[[snapshot_pb2.AdapterEntry], Awaitable[None]],
        is_alive: Callable[[], bool],
    ) -> None:
        self._inner = inner
        self._is_alive = is_alive
        self._secret = secret
        self._ensure_adapter = ensure_adapter
        self.in_flight = 0
        """Requests that are being handled."""
        self.adapters_in_flight: Counter[str] = Counter()
        """Those with an adapter, by its engine-side name."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        if not wire.is_authorized(headers.get(b"authorization", b""), self._secret):
            await _respond(send, 401, "This engine answers only the ingress of its data plane.", "UNAUTHENTICATED")
            return
        if not self._is_alive():
            await send_whole(send, wire.ENGINE_DEAD_STATUS, [], b"")
            return
        try:
            encoded = headers.get(_ADAPTER_HEADER)
            entry = wire.decode_adapter(encoded) if encoded is not None else None
        except ValueError:
            await _respond(send, 400, f"The {wire.ADAPTER_HEADER} header is not an AdapterEntry.", "BAD_ADAPTER")
            return
        adapter = engine_adapter_name(entry) if entry else None
        call = Call(headers.get(_SERVED_NAME_HEADER, b"").decode("latin-1"), adapter)
        self.in_flight += 1
        if adapter:
            self.adapters_in_flight[adapter] += 1
        try:
            if entry and not await self._ensured(entry, call.served_name, send):
                return
            token = CURRENT_CALL.set(call)
            try:
                await self._inner(scope, receive, self._unless_dead(send))
            finally:
                CURRENT_CALL.reset(token)
        finally:
            self.in_flight -= 1
            if adapter:
                self.adapters_in_flight[adapter] -= 1
                if not self.adapters_in_flight[adapter]:
                    del self.adapters_in_flight[adapter]

    def _unless_dead(self, send: Send) -> Send:
        """`send`, but a dead engine's error about its own death becomes `ENGINE_DEAD_STATUS`.

        The head of a response is held until its first piece, because vLLM gives a stream the status
        200 whatever follows.
        """
        head: MutableMapping[str, Any] | None = None
        replaced = False

        async def checked(message: MutableMapping[str, Any]) -> None:
            nonlocal head, replaced
            if message["type"] == "http.response.start":
                head = message
                return
            if head is not None:
                begun, head = head, None
                replaced = not self._is_alive() and _may_report_own_death(begun)
                if replaced:
                    await send_whole(send, wire.ENGINE_DEAD_STATUS, [_HAD_REQUEST], b"")
                else:
                    await send(begun)
            if not replaced:
                await send(message)

        return checked

    async def _ensured(self, entry: snapshot_pb2.AdapterEntry, served_name: str, send: Send) -> bool:
        try:
            await self._ensure_adapter(entry)
        except AdapterError as error:
            failed = openai_errors.AdapterFailed.of(
                served_name or entry.served_name,
                reason=error.reason,
                message=str(error),
                retry_after_s=error.retry_after_s,
            )
            answer = error_answers.answer_for(failed)
            await send_whole(send, answer.status, [*answer.headers, _ADAPTER_FAILED], answer.body)
            return False
        return True


def _may_report_own_death(head: MutableMapping[str, Any]) -> bool:
    """Whether a response with this head may be an engine's error about its own death."""
    streams_events = any(
        name == b"content-type" and value.startswith(b"text/event-stream") for name, value in head.get("headers", ())
    )
    return streams_events or head["status"] >= 500


async def _respond(send: Send, status: int, message: str, code: str) -> None:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})
    await send_whole(send, status, [JSON], body)
