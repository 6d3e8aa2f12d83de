"""uvicorn's HTTP/1 protocol, with less work for each request."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dataplane.openai.asgi import ON_DISCONNECT, WHOLE_BODY, WRITE_NOW, Receive, Scope, Send
from dataplane.openai.exchange.cycle import Cycle
from dataplane.openai.exchange.urls import url_parts


class RequestProtocol(HttpToolsProtocol):
    """One connection: makes requests of what the parser finds, and has the app answer them.

    It replaces uvicorn's callbacks of the parser, and its cycle. Left out is what these servers do
    not use: WebSockets, a root path, a limit of concurrent requests, an access log.
    """

    app: Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]
    cycle: Cycle  # type: ignore[assignment]  # in place of uvicorn's
    """Of the last request whose head has come. It may wait in `pipeline`."""
    pipeline: deque[tuple[Cycle, Scope]]  # type: ignore[assignment]  # every one is for the same app
    """Requests that wait for the answer before them, the newest first."""
    _answering: Cycle | None = None
    """Of the request that the app answers, or has answered last."""
    _unread_bytes = 0
    """Bytes since the last complete head or piece of a body: the size of an unfinished head."""
    _in_head = False
    """From the first byte of a head to its last."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        # The request that is answered, and not the last one that has come, as in uvicorn: those
        # behind it are never begun.
        if self._answering is not None:
            self._answering.lose_client()
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        self._unset_keepalive_if_required()
        self.parser = self.cycle = self._answering = None  # type: ignore[assignment]  # no cycle of references
        self.pipeline.clear()

    def on_message_begin(self) -> None:
        self._in_head = True
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_url(self, url: bytes) -> None:
        self.url = self.url + url if self.url else url

    def _begin_request(self) -> None:
        parser = self.parser
        method, http_version = parser.get_method().decode("ascii"), parser.get_http_version()
        self.cycle = cycle = Cycle(
            self,
            method,
            http_version,
            self.server_state.default_headers,
            keep_alive=http_version != "1.0" and parser.should_keep_alive(),
            expect_100_continue=self.expect_100_continue,
        )
        path, raw_path, query = url_parts(self.url)
        scope: Scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": http_version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": method,
            "root_path": "",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
            "state": self.app_state.copy(),
            # They refer to the cycle, which does not refer to its scope: nothing of a request waits
            # for the collector.
            "extensions": {
                WHOLE_BODY: cycle.whole_body,
                WRITE_NOW: cycle.write,
                ON_DISCONNECT: cycle.on_disconnect,
            },
        }
        if self._answering is None or self._answering.response_complete:
            self._start(cycle, scope)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, scope))

    def _start(self, cycle: Cycle, scope: Scope) -> None:
        self._answering = cycle
        task: asyncio.Task[None] = self.loop.create_task(self.app(scope, cycle.receive, cycle.send))
        task.add_done_callback(cycle.end)
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        cycle = self.cycle
        if not (self.parser.should_upgrade() or cycle.response_complete):
            cycle.add_body(body)
            if cycle.pending_bytes > HIGH_WATER_LIMIT:
                self.flow.pause_reading()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self.cycle.end_body()
        if self.cycle.response_complete:
            self._forget_request()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._start(*self.pipeline.pop())
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            if not self.cycle.more_body:
                self._forget_request()

    def _forget_request(self) -> None:
        """Free a request that is complete and answered: idle connections would keep their heads."""
        if not self._in_head:  # of the next one
            self.cycle = self._answering = self.headers = self.url = None  # type: ignore[assignment]  # as before the first
