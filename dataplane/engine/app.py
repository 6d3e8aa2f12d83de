"""What stands before an engine's own OpenAI app in its replica: who may call, which name and
adapter are asked for.

The engine's app sees the request as it is. What the caller asked for is in `CURRENT_CALL` while the
request is handled, also in the tasks that the engine starts for it (a context variable goes along).
"""

from __future__ import annotations

import base64
import binascii
import contextvars
import hmac
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from google.protobuf.message import DecodeError

from broadsheet.v1 import snapshot_pb2
from dataplane.errors import AdapterError
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.openai.asgi import JSON, Receive, Scope, Send, send_whole

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

SERVED_NAME_HEADER = b"x-broadsheet-served-name"
ADAPTER_HEADER = b"x-broadsheet-adapter"

_log = structlog.get_logger("dataplane.engine.replica")


@dataclass(frozen=True, slots=True)
class Call:
    """What the request that is being handled asks for."""

    served_name: str
    """The name that the caller used, and that the answer carries."""
    adapter: str | None
    """The engine-side name of the adapter; None: the base model."""


CURRENT_CALL: contextvars.ContextVar[Call | None] = contextvars.ContextVar("broadsheet_call", default=None)


ENGINE_DEAD_STATUS = 421
"""Misdirected Request: said to the ingress when the engine behind the app has died; it asks another
replica then."""
ENGINE_HAD_REQUEST_HEADER = b"x-broadsheet-engine-had-request"
"""With that status: the engine died when it had the request, perhaps because of it."""


class ReplicaApp:
    """ASGI app: lets in who knows the secret, has the adapter put on disk, counts, and hands on to
    `inner`."""

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
        self._authorization = f"Bearer {secret}".encode()
        self._ensure_adapter = ensure_adapter
        self.in_flight = 0
        """Requests that are being handled."""
        self.adapters_in_flight: Counter[str] = Counter()
        """The same, by engine-side name of the adapter."""
        self.failed_adapters: dict[str, str] = {}
        """Why the last try to fetch an adapter failed, by engine-side name."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._authorization):
            await _respond(send, 401, "This engine answers only the ingress of its data plane.", "UNAUTHENTICATED")
            return
        if not self._is_alive():
            await send_whole(send, ENGINE_DEAD_STATUS, [], b"")
            return
        try:
            entry = _adapter_entry(headers)
        except ValueError:
            await _respond(send, 400, f"The {ADAPTER_HEADER.decode()} header is not an AdapterEntry.", "BAD_ADAPTER")
            return
        adapter = engine_adapter_name(entry) if entry else None
        call = Call(headers.get(SERVED_NAME_HEADER, b"").decode("latin-1"), adapter)
        self.in_flight += 1
        if adapter:
            self.adapters_in_flight[adapter] += 1
        try:
            if entry and adapter and not await self._ensured(entry, adapter, send):
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
        """`send`, but an engine that has died says so instead of answering with an error about
        itself.

        The head of a response waits for its first piece: a stream of vLLM's has the status 200
        whatever is in it.
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
                replaced = not self._is_alive() and _may_be_about_itself(begun)
                if replaced:
                    await send_whole(send, ENGINE_DEAD_STATUS, [(ENGINE_HAD_REQUEST_HEADER, b"1")], b"")
                else:
                    await send(begun)
            if not replaced:
                await send(message)

        return checked

    async def _ensured(self, entry: snapshot_pb2.AdapterEntry, adapter: str, send: Send) -> bool:
        try:
            await self._ensure_adapter(entry)
        except AdapterError as error:
            _log.warning("adapter_unavailable", adapter=entry.name, reason=error.reason, message=str(error))
            self.failed_adapters[adapter] = f"{error.reason}: {error}"
            message = f"The adapter `{entry.served_name}` cannot be loaded: {error.reason}."
            await _respond(send, 503, message, "adapter_unavailable")
            return False
        self.failed_adapters.pop(adapter, None)
        return True


def _may_be_about_itself(head: MutableMapping[str, Any]) -> bool:
    """Whether a response with this head may be an engine's error about its own death."""
    streams_events = any(
        name == b"content-type" and value.startswith(b"text/event-stream") for name, value in head.get("headers", ())
    )
    return streams_events or head["status"] >= 500


def _adapter_entry(headers: dict[bytes, bytes]) -> snapshot_pb2.AdapterEntry | None:
    encoded = headers.get(ADAPTER_HEADER)
    if encoded is None:
        return None
    try:
        return snapshot_pb2.AdapterEntry.FromString(base64.b64decode(encoded, validate=True))
    except (binascii.Error, DecodeError) as error:
        raise ValueError("not an AdapterEntry") from error


async def _respond(send: Send, status: int, message: str, code: str) -> None:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})
    await send_whole(send, status, [JSON], body)
