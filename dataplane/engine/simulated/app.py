"""The SIMULATED engine: an OpenAI-compatible app that computes nothing.

It is for load tests, fault tests and demonstrations without weights. No other kind of engine falls
back to it. Its args are the fields of `SimulatedSettings`. It answers chat and text completions
(streamed or not), embeddings, token counts and the list of its single model. Every answer says that
it is simulated.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from dataplane.engine.front_ends.messages import LoadedAdapter
from dataplane.engine.simulated.answers import AnswerMaker, EngineRequest, Generation
from dataplane.engine.simulated.settings import SimulatedSettings
from dataplane.errors import AdapterError
from dataplane.openai import wire
from dataplane.openai.asgi import JSON, CancelOnDisconnect, Receive, Scope, Send, answer_lifespan, header, send_whole

__all__ = ["SimulatedEngine", "SimulatedSettings", "build_app"]

_CRASH_STATUS = 70
"""EX_SOFTWARE of sysexits.h."""
_METRICS = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


@dataclass(slots=True)
class Counters:
    """What a simulated engine has seen. Others only read it."""

    requests: int = 0
    """Requests for an answer, refused ones included."""
    in_flight: int = 0
    cancelled: int = 0
    """Requests whose client disconnected before the answer was complete."""


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Broken(Exception):
    """An answer breaks off: `break_after_tokens` is reached, or the engine was killed."""


class SimulatedEngine:
    """An ASGI app that is also an `Engine`."""

    def __init__(
        self,
        settings: SimulatedSettings,
        *,
        served_name: str,
        secret: str,
        random: Random,
        clock: Callable[[], float],
        exit_process: Callable[[int], object],
    ) -> None:
        self.counters = Counters()
        self._settings = settings
        self._served_name = served_name
        self._secret = secret
        self._random = random
        self._clock = clock
        self._exit_process = exit_process
        self._answers = AnswerMaker(settings)
        self._adapters: set[str] = set()
        self._asleep = False
        self._hung = False
        self._killed = asyncio.Event()
        self._routes: Mapping[str, Callable[[EngineRequest, Send], Awaitable[None]]] = {
            "/v1/chat/completions": self._generate,
            "/v1/completions": self._generate,
            "/v1/embeddings": self._embed,
            "/tokenize": self._tokenize,
        }

    @property
    def app(self) -> SimulatedEngine:
        """Itself."""
        return self

    @property
    def is_alive(self) -> bool:
        """True until it is killed."""
        return not self._killed.is_set()

    @property
    def loaded_adapters(self) -> tuple[str, ...]:
        """Engine-side names of its adapters."""
        return tuple(self._adapters)

    @property
    def weights_s(self) -> None:
        """It has no weights."""

    async def load_adapter(self, name: str, path: Path) -> None:
        """Note an adapter.

        Raises:
            AdapterError: `fail_adapters` is set.
        """
        if self._settings.fail_adapters:
            raise AdapterError(self._settings.fail_adapters, reason="ADAPTER_LOAD_FAILED")
        self._adapters.add(name)

    def adapter(self, name: str) -> LoadedAdapter:
        """A loaded adapter. It has neither a number nor files here.

        Raises:
            KeyError: it is not loaded.
        """
        if name not in self._adapters:
            raise KeyError(name)
        return LoadedAdapter(name, 0, "")

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter. An unknown one is ignored."""
        self._adapters.discard(name)

    async def sleep(self) -> None:
        """Refuse every request until `wake`, as an engine without weights would."""
        self._asleep = True

    async def wake(self) -> None:
        """Answer again, after `wake_up_s`."""
        await asyncio.sleep(self._settings.wake_up_s)
        self._asleep = False

    async def answer(self) -> None:
        """Return at once, unless it hangs."""
        if self._hung:
            await self._killed.wait()

    def shutdown(self) -> None:
        """Do nothing: it has no processes."""

    def kill(self) -> None:
        """End its requests with an error, or in the middle."""
        self._killed.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send, _nothing)
        elif scope["type"] == "http":
            try:
                await self._http(scope, receive, send)
            except _Refused as refused:
                kind = "invalid_request_error" if refused.status < 500 else "server_error"
                error = {"message": str(refused), "type": kind, "param": None, "code": refused.status}
                await send_whole(send, refused.status, [JSON], msgspec.json.encode({"error": error}))

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if self._secret and header(scope, b"authorization") != wire.authorization(self._secret).encode():
            raise _Refused(401, "Unauthorized")
        if self._asleep:
            raise _Refused(500, "The engine sleeps.")
        if path == "/health":
            await send_whole(send, 200, [JSON], b"{}")
        elif path == "/v1/models" and scope["method"] == "GET":
            await send_whole(send, 200, [JSON], self._answers.models(self._served_name))
        elif path == "/metrics":
            await send_whole(send, 200, [_METRICS], self._metrics())
        elif path not in self._routes:
            raise _Refused(404, "Not Found")
        elif scope["method"] != "POST":
            raise _Refused(405, "Method Not Allowed")
        else:
            await self._answer(scope, receive, send)

    def _metrics(self) -> bytes:
        """The one metric that it has of vLLM's."""
        name = "vllm:num_requests_running"
        return f'# TYPE {name} gauge\n{name}{{engine="0"}} {float(self.counters.in_flight)}\n'.encode()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        self.counters.requests += 1
        self.counters.in_flight += 1
        guard = CancelOnDisconnect(scope, receive)
        try:
            async with guard:
                self._misbehave()
                if self._settings.hang:
                    await asyncio.Event().wait()
                await self._routes[scope["path"]](self._parse(scope, body), self._unless_hung(send))
        except _Broken:
            return  # without the end of the response: the server then cuts the connection
        finally:
            self.counters.in_flight -= 1
            self.counters.cancelled += guard.disconnected
        if not guard.disconnected:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _misbehave(self) -> None:
        crash_after, hang_after = self._settings.crash_after_requests, self._settings.hang_after_requests
        if crash_after and self.counters.requests > crash_after:
            self._exit_process(_CRASH_STATUS)
        if hang_after and self.counters.requests > hang_after:
            self._hung = True
        if self._random.random() < self._settings.error_rate:
            raise _Refused(self._settings.error_status, "simulated error")

    def _unless_hung(self, send: Send) -> Send:
        """`send`, but nothing is sent while the engine hangs. It ends when the engine is killed."""

        async def checked(message: MutableMapping[str, Any]) -> None:
            if self._hung:
                await self._killed.wait()
                if message["type"] == "http.response.start":
                    raise _Refused(500, "the engine was killed")
                raise _Broken
            await send(message)

        return checked

    def _parse(self, scope: Scope, body: bytes) -> EngineRequest:
        shown_name = header(scope, wire.SERVED_NAME_HEADER.encode())
        try:
            request = EngineRequest.of(scope["path"], body, shown_name)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise _Refused(400, "The request body does not fit this route.") from None
        if self._served_name and shown_name is None and request.fields.model != self._served_name:
            raise _Refused(404, f"The model `{request.fields.model}` does not exist.")
        if header(scope, wire.ADAPTER_HEADER.encode()) is not None:
            self._adapters.add(request.fields.model)
        if len(request.prompt_words) > self._settings.max_model_len:
            raise _Refused(400, f"The prompt is longer than {self._settings.max_model_len} tokens.")
        return request

    # --- answers ----------------------------------------------------------------------------------

    async def _generate(self, request: EngineRequest, send: Send) -> None:
        generation = self._answers.generation(request, self.counters.requests)
        begun_at = self._clock()
        await self._wait_until(begun_at + self._settings.time_to_first_token_s)
        if request.fields.stream:
            await self._stream(generation, send)
            return
        speed = self._settings.tokens_per_second
        if speed:
            await self._wait_until(self._clock() + len(generation.words) / speed)
        await _begin(send, JSON, self._answers.whole(generation))

    async def _stream(self, generation: Generation, send: Send) -> None:
        await _begin(send, _EVENTS, self._answers.first_event(generation))
        begun_at, speed = self._clock(), self._settings.tokens_per_second
        for position in range(len(generation.words)):
            if self._settings.break_after_tokens and position >= self._settings.break_after_tokens:
                raise _Broken
            if speed:
                await self._wait_until(begun_at + position / speed)
            event = self._answers.token_event(generation, position)
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": self._answers.last_events(generation), "more_body": True})

    async def _embed(self, request: EngineRequest, send: Send) -> None:
        await asyncio.sleep(self._settings.time_to_first_token_s)
        await _begin(send, JSON, self._answers.embeddings(request))

    async def _tokenize(self, request: EngineRequest, send: Send) -> None:
        await asyncio.sleep(self._settings.time_to_first_token_s)
        await _begin(send, JSON, self._answers.token_count(request))

    async def _wait_until(self, at: float) -> None:
        """Sleep until a point in time, so that the errors of many pauses do not add up."""
        pause_s = at - self._clock()
        if pause_s > 0:
            await asyncio.sleep(pause_s)


def build_app(
    settings: SimulatedSettings,
    *,
    served_name: str = "",
    secret: str = "",
    random: Random,
    clock: Callable[[], float],
    exit_process: Callable[[int], object] = os._exit,
) -> SimulatedEngine:
    """A simulated engine that has started.

    Args:
        settings: How it behaves.
        served_name: The only model that it answers for, unless `x-broadsheet-served-name` names the
            model to show. Empty: it answers for any.
        secret: What it requires in `authorization: Bearer`; empty: nothing.
        random: For `error_rate`.
        clock: Seconds, monotonic.
        exit_process: Called with a status by `crash_after_requests`.
    """
    return SimulatedEngine(
        settings, served_name=served_name, secret=secret, random=random, clock=clock, exit_process=exit_process
    )


async def _begin(send: Send, content_type: tuple[bytes, bytes], body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [content_type]})
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def _nothing() -> None:
    """Nothing has to be shut down."""
