"""A real ingress, engine and client in this process, to count the Python calls of the ingress.

The ingress runs in a thread of its own, on uvloop and behind the protocol that it has in
production. The engine and the client are two more threads and take turns with it: each piece is
sent when the one before has arrived. So every run does the same work, and no time is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import uvicorn
import uvloop

from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.view_holder import ViewHolder
from dataplane.openai.http_protocol import protocol_class
from dataplane.snapshot.activation import View
from tests.ingress_app import ingress_app

_TIMEOUT_S = 10.0
_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'
_METERED = _EVENT.replace(b"]}", b'],"usage":{"prompt_tokens":3,"total_tokens":9,"completion_tokens":6}}')
"""As an engine that is asked for usage sends it. The caller gets it without."""
_UNARY_BODY = b'{"choices":[{"message":{"content":"words"}}],"usage":{"prompt_tokens":3,"total_tokens":9}}'
_UNARY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_UNARY_BODY)
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_END = b"0\r\n\r\n"


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


class Engine:
    """Answers on kept connections with bytes that are made ahead: whole, or `chunks` events.

    It sends an event when the client has the one before.
    """

    def __init__(self) -> None:
        self.chunks = 0
        """Events of each answer; 0: the answer is no stream."""
        self.reports_usage = False
        """Whether each event has the usage so far."""
        self.arrived = threading.Semaphore(0)
        """Released by the client for each event that it has read."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._opened: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                opened, _ = self._listener.accept()
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._opened.append(opened)
                threading.Thread(target=self._serve, args=(opened,), daemon=True).start()

    def _serve(self, opened: socket.socket) -> None:
        with contextlib.suppress(OSError), opened.makefile("rb") as reader:
            while head := _read_head(reader):
                length = next(line for line in head if line.lower().startswith(b"content-length:"))
                reader.read(int(length.partition(b":")[2]))
                self._answer(opened)

    def _answer(self, opened: socket.socket) -> None:
        if not self.chunks:
            opened.sendall(_UNARY + _UNARY_BODY)
            return
        event = _chunk(_METERED if self.reports_usage else _EVENT)
        opened.sendall(_STREAM + event)
        for _ in range(self.chunks - 1):
            if not self.arrived.acquire(timeout=_TIMEOUT_S):
                return
            opened.sendall(event)
        if self.arrived.acquire(timeout=_TIMEOUT_S):
            opened.sendall(_END)

    def close(self) -> None:
        for opened in (self._listener, *self._opened):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()


def _read_head(reader: Any) -> list[bytes]:
    lines = []
    while (line := reader.readline()) not in (b"\r\n", b""):
        lines.append(line)
    return lines


class Client:
    """One kept connection to the ingress."""

    def __init__(self, port: int, engine: Engine) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._socket.makefile("rb")
        self._engine = engine

    def ask(self, request: bytes, *, times: int = 1) -> None:
        """Send a request, and read its answer to the end; so many times."""
        for _ in range(times):
            self._ask(request)

    def _ask(self, request: bytes) -> None:
        self._socket.sendall(request)
        status, *lines = _read_head(self._reader)
        assert status.startswith(b"HTTP/1.1 200 "), status
        headers = dict(line.strip().lower().split(b": ", 1) for line in lines)
        if b"content-length" in headers:
            self._reader.read(int(headers[b"content-length"]))
            return
        assert headers[b"transfer-encoding"] == b"chunked"
        while length := int(self._reader.readline(), 16):
            assert self._reader.read(length + 2) == _EVENT + b"\r\n"
            self._engine.arrived.release()
        self._reader.readline()

    def close(self) -> None:
        self._reader.close()
        self._socket.close()


class CountedIngress:
    """An ingress in a thread of its own."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._loop = uvloop.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self.port = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(_TIMEOUT_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        views, settings = ViewHolder(), IngressSettings()
        app = ingress_app(views, settings)
        views.swap(self._view)
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            http=protocol_class(settings, app.count_refusal),
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            date_header=False,
            proxy_headers=False,
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        self.port = listener.getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        await server.shutdown(sockets=[listener])
        await app.aclose()

    def on_loop(self, call: Callable[[], object]) -> Any:
        """Call a function in the ingress's thread, between two events. Returns what it returns."""

        async def called() -> object:
            return call()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(_TIMEOUT_S)

    def calls_during(self, work: Callable[[], object]) -> Counter[CodeType]:
        """The Python calls of the ingress while `work` runs in this thread, by function.

        Each resumption of a coroutine counts as a call. What the collector of cycles calls is left
        out, because it comes from objects of other tests.
        """
        counted: Counter[CodeType] = Counter()

        def count(frame: FrameType, event: str, _: object) -> None:
            if event == "call":
                counted[frame.f_code] += 1

        gc.collect()
        gc.disable()
        self.on_loop(lambda: sys.setprofile(count))
        try:
            work()
            self.on_loop(lambda: None)  # what follows an answer has run
        finally:
            self.on_loop(lambda: sys.setprofile(None))
            gc.enable()
        return counted

    def cpu_during(self, work: Callable[[], object]) -> float:
        """Seconds of processor time of the ingress's thread while `work` runs in this one."""
        before: float = self.on_loop(time.thread_time)
        work()
        after: float = self.on_loop(time.thread_time)
        return after - before

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_TIMEOUT_S)


@contextlib.contextmanager
def counted(view_of: Callable[[str], View]) -> Iterator[tuple[CountedIngress, Engine, Client]]:
    """An ingress with one engine and one client.

    Args:
        view_of: Makes the view from the URL of the engine.
    """
    with contextlib.ExitStack() as stack:
        engine = Engine()
        stack.callback(engine.close)
        ingress = CountedIngress(view_of(engine.url))
        stack.callback(ingress.close)
        client = Client(ingress.port, engine)
        stack.callback(client.close)
        yield ingress, engine, client
