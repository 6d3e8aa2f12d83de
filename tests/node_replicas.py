"""Plain processes that share a port as the ingress replicas of a node do."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import multiprocessing
import os
import signal
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as PipeConnection
from multiprocessing.process import BaseProcess
from pathlib import Path

import uvicorn
import uvloop

from dataplane.ingress.sharing.channel import place_of
from dataplane.ingress.sharing.server import SharedServer
from dataplane.openai.asgi import JSON, Receive, Scope, Send, send_whole
from dataplane.openai.http_limits import HttpLimits
from dataplane.openai.http_protocol import protocol_class
from dataplane.openai.listening import listener_on
from tests.ports import free_port

_START_S = 20.0
_ANSWERS_AFTER_S = {"/slow": 0.5, "/soon": 0.02}
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.node_replicas"])
"""One process imports all of it once, and is forked for each replica."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """What its replicas have in common."""

    data_plane_id: str
    port: int
    limits: HttpLimits = field(default_factory=HttpLimits)
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class Shown:
    """What a replica says of itself."""

    pid: int
    connections: int
    siblings: int
    """Other replicas that it may hand connections to."""
    handed_over: int
    taken_back: int


def run_replica(node: Node, port: int, told: PipeConnection) -> None:
    """Serve until SIGTERM. Answers who answers, at some paths after a while."""
    uvloop.run(_serve(node, port, told))


async def _serve(node: Node, port: int, told: PipeConnection) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in _ANSWERS_AFTER_S:
            await asyncio.sleep(_ANSWERS_AFTER_S[scope["path"]])
        await send_whole(send, 200, [JSON], json.dumps({"pid": os.getpid()}).encode())

    def show() -> None:
        told.recv()
        told.send(Shown(os.getpid(), server.connections, server.siblings, server.handed_over, server.taken_back))

    context = None
    if node.cert is not None and node.key is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(node.cert, node.key)
    config = uvicorn.Config(
        app,
        http=protocol_class(node.limits, lambda code: None),
        ssl_context_factory=(lambda config, default: context) if context is not None else None,
        ws="none",
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=5,
    )
    server = SharedServer(
        config,
        place=place_of(node.data_plane_id, "127.0.0.1", node.port),
        listen=lambda: listener_on("127.0.0.1", port, write_timeout_s=60, shared=True),
        max_connections=node.limits.max_connections,
    )
    await server.join()
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # there is no event for it
        await asyncio.sleep(0.005)
    asyncio.get_running_loop().add_reader(told.fileno(), show)
    await serving


class Replicas:
    """Running replicas of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.running: dict[int, BaseProcess] = {}
        self._pipes: dict[int, PipeConnection] = {}
        self._connections: list[Connection] = []

    def start(self, count: int = 1, *, port: int | None = None) -> list[int]:
        """Start replicas. Returns their process ids when all of them listen.

        Args:
            count: How many.
            port: Where they listen. Those on another port than the node's get only what others hand
                to them.
        """
        started = []
        for _ in range(count):
            ours, theirs = _FORKS.Pipe()
            process = _FORKS.Process(target=run_replica, args=(self.node, port or self.node.port, theirs), daemon=True)
            process.start()
            theirs.close()
            assert process.pid is not None
            self.running[process.pid] = process
            self._pipes[process.pid] = ours
            started.append(process.pid)
        everybody = len(self.running) - 1
        self.until(lambda: all(self.shown(pid).siblings == everybody for pid in self.running))
        return started

    def shown(self, pid: int) -> Shown:
        """What a replica says of itself."""
        pipe = self._pipes[pid]
        pipe.send(None)
        assert pipe.poll(_START_S), "a replica does not answer"
        shown: Shown = pipe.recv()
        return shown

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + _START_S
        while not condition():
            assert time.monotonic() < deadline, "it does not come true"
            time.sleep(0.005)

    def start_beside(self) -> int:
        """Start a replica that listens elsewhere."""
        return self.start(port=free_port())[0]

    def connect(self, *, again: bool = False) -> Connection:
        """A new connection of a client. It is closed with the node.

        Args:
            again: Whether it connects again when an answer says that the connection ends.
        """
        connection = Connection(self.node)
        connection.connects_again(again)
        self._connections.append(connection)
        return connection

    def end(self, pid: int, number: signal.Signals) -> None:
        """End one of them by a signal, and wait until it has ended."""
        os.kill(pid, number)
        process = self.running.pop(pid)
        process.join(15)
        self._pipes.pop(pid).close()
        assert process.exitcode is not None, "a replica did not end"

    def listeners(self) -> int:
        """Sockets that listen on the node's port, from the kernel's table."""
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        return sum(line.split()[1].endswith(f":{self.node.port:04X}") and line.split()[3] == "0A" for line in lines)

    def spread(self, connections: list[Connection]) -> list[int]:
        """How many of these connections each replica that runs has, most first."""
        counts = Counter(connection.ask() for connection in connections)
        return sorted((counts.get(pid, 0) for pid in self.running), reverse=True)

    def close(self) -> None:
        """Close all connections, and end all replicas."""
        for connection in self._connections:
            connection.close()
        for pid, process in self.running.items():
            os.kill(pid, signal.SIGKILL)
            process.join(10)
        for pipe in self._pipes.values():
            pipe.close()


class Connection:
    """A kept connection of a client."""

    def __init__(self, node: Node, *, timeout_s: float = 10) -> None:
        if node.cert is None:
            self._http = http.client.HTTPConnection("127.0.0.1", node.port, timeout=timeout_s)
        else:
            context = ssl.create_default_context(cafile=str(node.cert))
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self._http = http.client.HTTPSConnection("127.0.0.1", node.port, timeout=timeout_s, context=context)
        self._http.connect()
        self._http.auto_open = 0

    def connects_again(self, again: bool) -> None:
        """Whether it connects again when an answer says that the connection ends."""
        self._http.auto_open = int(again)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, path: str = "/") -> int:
        """The process id of the replica that answers."""
        self._http.request("GET", path)
        answer = self._http.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return int(json.loads(content)["pid"])

    def close(self) -> None:
        """Close it."""
        self._http.close()


@contextlib.contextmanager
def running_node(
    count: int, *, limits: HttpLimits | None = None, tls: tuple[Path, Path] | None = None
) -> Iterator[Replicas]:
    """Replicas on a free port."""
    cert, key = tls or (None, None)
    node = Node(data_plane_id="test", port=free_port(), limits=limits or HttpLimits(), cert=cert, key=key)
    replicas = Replicas(node)
    try:
        replicas.start(count)
        yield replicas
    finally:
        replicas.close()
