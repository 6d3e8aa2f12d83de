"""A large body is held once, whatever is changed in it on its way to an engine."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tracemalloc
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from dataplane.ingress.limits import IngressSettings
from dataplane.openai.adapter_names import engine_adapter_name
from tests import views
from tests.stream.http_connections import Connections
from tests.stream.ingress_world import World, ready

BODY_BYTES = 8 * 1024 * 1024
HELD_RATIO_MAX = 1.4
"""Of the bytes of all bodies: buffers of sockets, an eighth that grows ahead, and a margin."""
ADAPTER = views.adapter("m", "a")
CATALOG = views.snapshot(
    views.model("m"), ADAPTER, views.api_key("limited", "bs-limited", tokensPerMinute=1_000_000_000)
)
OPTIONS = b'"stream_options":{"include_usage":true,"continuous_usage_stats":true}'


@dataclass
class DroppingEngine:
    """An engine that keeps of each body no more than its length and digest."""

    bodies: list[tuple[int, str]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = left = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                digest = hashlib.sha256()
                while left:
                    digest.update(piece := await reader.read(min(left, 65536)))
                    left -= len(piece)
                self.bodies.append((length, digest.hexdigest()))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()


@pytest.fixture
async def engine() -> AsyncIterator[tuple[DroppingEngine, str]]:
    made = DroppingEngine()
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as server:
        yield made, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
async def connections(engine: tuple[DroppingEngine, str]) -> AsyncIterator[Connections]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings())
        world.show(CATALOG, m=ready(engine[1]))
        yield Connections(world, stack)


def request(body: bytes, *, path: str = "/v1/chat/completions", kind: str = "application/json") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer bs-limited\r\ncontent-type: {kind}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def chat(model: bytes, *, more: bytes = b"") -> bytes:
    return b'{"model":"%b","messages":[{"role":"user","content":"%b"}]%b}' % (model, b"QUJD" * (BODY_BYTES // 4), more)


def form(model: bytes) -> bytes:
    part = b'--b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    sound = part % (b'file"; filename="f', bytes(BODY_BYTES))
    return sound + part % (b"model", model) + b"--b--\r\n"


ENGINES_NAME = engine_adapter_name(ADAPTER).encode()


CASES: Mapping[str, Callable[[], tuple[bytes, bytes]]] = {
    "base": lambda: (request(chat(b"m")), chat(b"m")),
    "adapter": lambda: (request(chat(b"m:a")), chat(ENGINES_NAME)),
    "adapter and usage": lambda: (
        request(chat(b"m:a", more=b',"stream":true')),
        chat(ENGINES_NAME, more=b',"stream":true,' + OPTIONS),
    ),
    "form for an adapter": lambda: (
        request(form(b"m:a"), path="/v1/audio/transcriptions", kind="multipart/form-data; boundary=b"),
        form(ENGINES_NAME),
    ),
}
"""A request, and the body that the engine gets. They are made by the test that needs them."""


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("case", CASES)
async def test_a_large_body_is_held_once_and_arrives_whole(
    engine: tuple[DroppingEngine, str], connections: Connections, case: str, at_once: int
) -> None:
    sent, expected = CASES[case]()
    clients = [await connections.open() for _ in range(at_once)]
    tracemalloc.start()
    try:
        answers: Sequence[tuple[int, bytes]] = await asyncio.gather(
            *(_exchange(client.reader, client.writer, sent) for client in clients)
        )
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answers == [(200, b"{}")] * at_once
    assert engine[0].bodies == [(len(expected), hashlib.sha256(expected).hexdigest())] * at_once
    assert 1.0 < peak_bytes / (BODY_BYTES * at_once) < HELD_RATIO_MAX


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes) -> tuple[int, bytes]:
    for start in range(0, len(sent), 65536):  # the transport would copy what the socket does not take
        writer.write(memoryview(sent)[start : start + 65536])
        await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split(b" ")[1]), await reader.readexactly(2)
