"""Real servers in this process: an ingress, simulated engines, and recording engines."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import aiohttp
import openai
import uvicorn
import yarl

from dataplane.engine.simulated.app import SimulatedEngine, SimulatedSettings, build_app
from dataplane.ingress.app import IngressApp
from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.view_holder import ViewHolder
from dataplane.openai.asgi import JSON, Receive, Scope, Send, send_whole
from dataplane.openai.http_protocol import protocol_class
from dataplane.snapshot.activation import ModelActivation, View
from dataplane.snapshot.snapshot import Snapshot
from tests import views
from tests.ingress_app import ingress_app

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
SECRET = "the secret of the engines"


@contextlib.asynccontextmanager
async def serving(app: AsgiApp, http: type[asyncio.Protocol] | None = None) -> AsyncIterator[str]:
    """Serve an app with uvicorn on a free port. Yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    # asyncio sets this only for its own sockets. Without it small writes wait 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        app,
        http=http or "auto",
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # Instead of `serve`, whose loop takes a tenth of a second to stop.
    await server.startup(sockets=[listener])
    await server.on_tick(0)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await server.shutdown(sockets=[listener])


def unused_url() -> str:
    """A URL without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


async def until(condition: Callable[[], bool], *, timeout_s: float = 5) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Recorded:
    """A request as an engine received it."""

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)


async def answer_ok(scope: Scope, receive: Receive, send: Send) -> None:
    await send_whole(send, 200, [JSON, (b"server", b"engine"), (b"x-engine", b"yes")], b'{"ok":true}')


@dataclass
class Recorder:
    """An engine that records each request and answers it by `answer`."""

    answer: AsgiApp = answer_ok
    requests: list[Recorded] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        path = scope["raw_path"].decode()
        headers = list(scope["headers"])
        self.requests.append(Recorded(scope["method"], path, scope["query_string"], headers, bytes(body)))
        await self.answer(scope, receive, send)


class World:
    """An ingress and its engines."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self.views = ViewHolder()
        self.woken: list[str] = []
        self.url = ""
        self.app: IngressApp
        self.http: aiohttp.ClientSession

    async def start(self, settings: IngressSettings) -> None:
        self.app = ingress_app(self.views, settings, wake=self.woken.append)
        self._stack.push_async_callback(self.app.aclose)
        self.url = await self._stack.enter_async_context(
            serving(self.app, protocol_class(settings, self.app.count_refusal))
        )
        self.http = await self._stack.enter_async_context(
            aiohttp.ClientSession(self.url, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=20))
        )

    async def engine(self, **args: object) -> tuple[SimulatedEngine, str]:
        """Start a simulated engine. Returns it with its URL."""
        settings = SimulatedSettings.from_args(args)
        engine = build_app(settings, secret=SECRET, random=random.Random(0), clock=time.monotonic)
        return engine, await self.serve(engine)

    async def serve(self, app: AsgiApp) -> str:
        """Serve any app as an engine. Returns its URL."""
        return await self._stack.enter_async_context(serving(app))

    def show(self, catalog: Snapshot, **activations: ModelActivation) -> View:
        """Make a catalog and its activations the current view."""
        view = views.view(catalog, activations)
        self.views.swap(view)
        return view

    def waiting(self, model: str = "models/m") -> int:
        """The number of requests that wait for a model."""
        usage = self.app.usage().get(model)
        return usage.waiting if usage is not None else 0

    async def openai(self) -> openai.AsyncOpenAI:
        """An OpenAI client without retries."""
        client = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="the caller's key", max_retries=0, timeout=20)
        self._stack.push_async_callback(client.close)
        return client

    async def post(
        self,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """POST a JSON body, or raw bytes."""
        content = raw if raw is not None else json.dumps(body).encode()
        sent = {"content-type": "application/json"} | dict(headers or {})
        url = yarl.URL(self.url + path, encoded=True)
        async with self.http.post(url, data=io.BytesIO(content), headers=sent) as response:
            return await Answer.of(response)

    async def get(self, path: str, *, method: str = "GET") -> Answer:
        async with self.http.request(method, path) as response:
            return await Answer.of(response)


@dataclass(frozen=True)
class Answer:
    """A complete response."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @classmethod
    async def of(cls, response: aiohttp.ClientResponse) -> Answer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return cls(response.status, headers, await response.read())

    @property
    def code(self) -> str:
        """The code of an error."""
        return str(json.loads(self.body)["error"]["code"])

    @property
    def message(self) -> str:
        """The message of an error."""
        return str(json.loads(self.body)["error"]["message"])


def ready(*urls: str, number: int = 1, application: str = "app-1") -> ModelActivation:
    """A READY model with these endpoints."""
    return views.ready(*urls, number=number, application=application, secret=SECRET)
