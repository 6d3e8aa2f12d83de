"""Hold many streams through the ingress for minutes, and show what its memory does.

    python -m tests.bench.ingress.soak [--streams 1000] [--minutes 10]

Each stream has a chunk a second. All begin within a few seconds and last until the end. Beside
them, requests that are not streamed come one after another, each over a connection of its own: they
would show what a request leaves behind. It fails if a stream or a request does.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from protocol.transport.open_files import allow_connections
from tests.bench.ingress import answers, plan, subjects
from tests.bench.ingress.processes import StartError, ended, exit_when_told
from tests.bench.ingress.served import catalogs
from tests.bench.ingress.shown.slope import second_half, slope
from tests.bench.output import tell
from tests.ports import free_port

_OPENED_AT_ONCE = 50
"""Streams that are being opened at the same time."""
_SAMPLE_INTERVAL_S = 2.0
_SHOWN_EVERY_S = 60.0
_SILENCE_MAX_S = 30.0
"""Longest time without a chunk before a stream has failed."""
_REQUEST_INTERVAL_S = 0.01
"""Between two requests that are not streamed: a loop without pause would take a core."""
_FAILURES = (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError)
_KIB = 1024


@dataclass
class Seen:
    """What the clients have seen so far."""

    open_streams: int = 0
    chunks: int = 0
    streams: int = 0
    """That ended as they should."""
    requests: int = 0
    """That are not streamed, and were answered as they should be."""
    errors: list[str] = field(default_factory=list)


class Client:
    """Sends requests to a subject, and notes what it sees."""

    def __init__(self, subject: subjects.Subject, seen: Seen) -> None:
        self._subject = subject
        self._seen = seen
        self._opening = asyncio.Semaphore(_OPENED_AT_ONCE)

    async def stream(self, chunks: int) -> None:
        """Hold a stream of so many chunks."""
        try:
            async with self._opening:
                reader, writer = await self._ask(f"{answers.SLOW}{chunks}")
            self._seen.open_streams += 1
            try:
                got = await self._read(reader)
            finally:
                self._seen.open_streams -= 1
                writer.close()
        except _FAILURES as error:
            self._seen.errors.append(f"a stream failed: {error!r}")
            return
        if got == chunks:
            self._seen.streams += 1
        else:
            self._seen.errors.append(f"a stream ended after {got} of {chunks} chunks")

    async def _read(self, reader: asyncio.StreamReader) -> int:
        """Read a stream to its end, and count its chunks.

        Raises:
            ValueError: It breaks off.
        """
        got = 0
        while line := await asyncio.wait_for(reader.readline(), _SILENCE_MAX_S):
            if line == b"data: [DONE]\n":
                return got
            got += answers.tokens_in(line)
            self._seen.chunks += answers.tokens_in(line)
        raise ValueError(f"it broke off after {got} chunks")

    async def requests(self) -> None:
        """Send requests that are not streamed, one after another, until cancelled."""
        content = answers.unary_json()
        while True:
            try:
                reader, writer = await self._ask(answers.UNARY)
                got = await asyncio.wait_for(reader.readexactly(len(content)), _SILENCE_MAX_S)
                writer.close()
            except _FAILURES as error:
                self._seen.errors.append(f"a request failed: {error!r}")
                await asyncio.sleep(_REQUEST_INTERVAL_S)
                continue
            await asyncio.sleep(_REQUEST_INTERVAL_S)
            if got == content:
                self._seen.requests += 1
            else:
                self._seen.errors.append(f"a request was answered {got[:200]!r}")

    async def _ask(self, answer: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request, and read the head of its answer."""
        body = answers.request_body(answer, model=catalogs.BASE, body_bytes=_KIB)
        headers = {"host": "bench", "content-type": "application/json", "content-length": str(len(body))}
        lines = [f"{name}: {value}\r\n" for name, value in {**headers, **self._subject.headers}.items()]
        reader, writer = await asyncio.open_connection("127.0.0.1", self._subject.port)
        writer.write(f"POST {subjects.PATH} HTTP/1.1\r\n{''.join(lines)}\r\n".encode() + body)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _SILENCE_MAX_S)
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(head.split(b"\r\n", 1)[0].decode())
        return reader, writer


async def soak(subject: subjects.Subject, *, streams: int, seconds: int) -> tuple[Seen, list[tuple[float, float]]]:
    """Hold the streams.

    Returns:
        What was seen; and the memory in KiB, by seconds since the start, while all were open.
    """
    seen, memory = Seen(), list[tuple[float, float]]()
    client = Client(subject, seen)
    began = time.monotonic()
    requests = asyncio.create_task(client.requests())
    held = asyncio.gather(*(client.stream(seconds) for _ in range(streams)))
    shown_s = 0.0
    while not held.done():
        await asyncio.wait([held], timeout=_SAMPLE_INTERVAL_S)
        after_s = time.monotonic() - began
        if seen.open_streams == streams:
            memory.append((after_s, subject.resident_bytes() / _KIB))
        if after_s - shown_s >= _SHOWN_EVERY_S and memory:
            shown_s = after_s
            tell(
                f"{after_s / 60:4.1f} min: {seen.open_streams} streams open, {seen.chunks:,} chunks, "
                f"{seen.requests:,} requests, {len(seen.errors)} errors, {memory[-1][1] / _KIB:.1f} MiB"
            )
    requests.cancel()
    await asyncio.wait([requests])
    return seen, memory


def _show(seen: Seen, memory: list[tuple[float, float]], streams: int) -> bool:
    """Print what was seen. Returns whether all is as it should be."""
    tell(f"{seen.streams} of {streams} streams complete, {seen.chunks:,} chunks, {seen.requests:,} other requests")
    late = second_half(memory)
    if len(late) >= 2:
        each = slope(late) * 60
        tell(
            f"memory: {memory[0][1] / _KIB:.1f} MiB with all streams open, {memory[-1][1] / _KIB:.1f} MiB in the end; "
            f"slope over the second half {each:+.1f} KiB a minute"
        )
    for error in seen.errors[:10]:
        tell(error)
    tell(f"{len(seen.errors)} errors")
    return not seen.errors and seen.streams == streams


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--minutes", type=float, default=10.0)
    arguments = parser.parse_args()
    exit_when_told()
    # The children inherit it: each stream has two connections at the ingress.
    allow_connections(3 * arguments.streams)
    with tempfile.TemporaryDirectory(prefix="bi-") as folder:
        place = subjects.Place(folder=Path(folder), engine_port=free_port(), processes=[])
        with ended(place.processes):
            try:
                subjects.start(plan.DIRECT, place).wait_until_ready()
                subject = subjects.start(plan.FULL, place)
                subject.wait_until_ready()
            except StartError as error:
                tell(str(error))
                return 1
            seen, memory = uvloop.run(
                soak(subject, streams=arguments.streams, seconds=max(1, int(arguments.minutes * 60)))
            )
    return int(not _show(seen, memory, arguments.streams))


if __name__ == "__main__":
    raise SystemExit(main())
