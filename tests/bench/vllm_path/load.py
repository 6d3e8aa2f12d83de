"""A process of the load generator: streams in a closed loop, each on a kept connection of its own.

It reads jobs from standard input, a line of JSON each, and answers each with a line. No prompt is
used twice, so that no prefix cache answers. Within the window of a job it counts the events of the
answers and times their first ones. What runs at the end of the window is broken off.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any, cast

import httptools
import msgspec
import uvloop

_EVENT = b"data: {"
_TEXT = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house"
)
_WORDS = _TEXT.split()
_PAUSE_AFTER_ERROR_S = 0.2
_ERRORS_MAX = 5
_KEPT_BYTES = 2048
"""Of the end of an answer: the event with the usage is in it."""


class Target(msgspec.Struct, frozen=True):
    """Where to ask."""

    host: str
    port: int
    model: str
    secret: str = ""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What one process does between two points in time."""

    targets: Sequence[Target]
    alternating: bool = False
    """Every stream asks the targets in turns, each on a connection of its own, and each target has
    counts of its own. Otherwise a stream asks one of the targets, and they are counted together."""
    streams: Sequence[int]
    """Numbers of the streams of this process."""
    seed: str
    """Of the prompts. Another one for each job."""
    begin: float
    """Seconds since the epoch, as `window_begin` and `window_end`."""
    window_begin: float
    window_end: float
    max_tokens: int
    prompt_words: int


class Counts(msgspec.Struct):
    """What one process has seen."""

    events: int = 0
    """Within the window."""
    first_token_s: list[float] = msgspec.field(default_factory=list)
    """Of the requests that were sent within the window and got a first token within it."""
    ended: int = 0
    """Requests that ended, whenever."""
    ended_tokens: int = 0
    """Their tokens, as the engine counts them."""
    ended_events: int = 0
    whole: int = 0
    """Requests that were sent and ended within the window."""
    whole_tokens: int = 0
    whole_s: float = 0.0
    """How long they took together."""
    prompt_tokens: int = 0
    """Of the last prompt."""
    errors: list[str] = msgspec.field(default_factory=list)
    error_count: int = 0
    cpu_cores: float = 0.0
    """CPU seconds of this process per second."""


class Exchange(asyncio.Protocol):
    """One connection. It has at most one request at a time."""

    def __init__(self, counts: Counts, window: tuple[float, float]) -> None:
        self._counts = counts
        self._window = window
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._done: asyncio.Future[None] | None = None
        self._begun = 0.0
        self._events = 0
        self._tail = b""
        self._body_end = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class is none of asyncio's

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"connection lost after {self._events} events: {exc!r}")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(repr(error))

    async def ask(self, request: bytes) -> None:
        """Send a request and read its answer to the end.

        Raises:
            ConnectionError: the answer is no complete one of status 200.
        """
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._events, self._tail, self._body_end = 0, b"", b""
        self._done = asyncio.get_running_loop().create_future()
        self._begun = time.time()
        self._transport.write(request)
        await self._done

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- of the parser ----------------------------------------------------------------------------

    def on_body(self, body: bytes) -> None:
        now, (begin, end) = time.time(), self._window
        joined = self._tail + body
        events = joined.count(_EVENT)
        self._tail = joined[-(len(_EVENT) - 1) :] if not joined.endswith(_EVENT) else b""
        self._body_end = (self._body_end + body)[-_KEPT_BYTES:]
        if not events:
            return
        if begin <= now < end:
            self._counts.events += events
            if not self._events and self._begun >= begin:
                self._counts.first_token_s.append(round(now - self._begun, 5))
        self._events += events

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200 or b"[DONE]" not in self._body_end:
            self._fail(f"status {status}: {self._body_end[:300].decode('utf-8', 'replace')}")
            return
        tokens, now, (begin, end) = self._number(b'"completion_tokens":'), time.time(), self._window
        self._counts.ended += 1
        self._counts.ended_tokens += tokens
        if begin <= self._begun and now < end:
            self._counts.whole += 1
            self._counts.whole_tokens += tokens
            self._counts.whole_s += now - self._begun
        self._counts.ended_events += self._events
        self._counts.prompt_tokens = self._number(b'"prompt_tokens":')
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _number(self, name: bytes) -> int:
        """A number of the usage, which is in one of the last events."""
        after = self._body_end[self._body_end.rindex(name) + len(name) :]
        digits = after.lstrip()[:12].split(b",")[0].split(b"}")[0]
        return int(digits)

    def _fail(self, what: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError(what))


def request(target: Target, job: Job, draw: random.Random, max_tokens: int) -> bytes:
    """The bytes of one request, with a prompt that nobody has sent before."""
    prompt = f"{draw.getrandbits(64):x} " + " ".join(draw.choices(_WORDS, k=job.prompt_words))
    body = json.dumps(
        {
            "model": target.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    secret = f"authorization: Bearer {target.secret}\r\n" if target.secret else ""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {target.host}:{target.port}\r\n{secret}"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


async def stream(job: Job, number: int, slots: Sequence[Counts]) -> None:
    """Ask one request after the other, until it is cancelled."""
    draw = random.Random(f"{job.seed} {number}")  # prompts, not secrets
    # The first answers have different lengths, so that not all streams begin anew at once.
    max_tokens = draw.randint(max(1, job.max_tokens // 8), job.max_tokens)
    place, exchanges = number % len(job.targets), dict[int, Exchange]()
    try:
        while True:
            target, counts = job.targets[place], slots[place % len(slots)]
            try:
                if place not in exchanges:
                    exchanges[place] = await _connected(target, job, counts)
                await exchanges[place].ask(request(target, job, draw, max_tokens))
            except OSError as error:
                counts.error_count += 1
                counts.errors = [*counts.errors, str(error)][:_ERRORS_MAX]
                if place in exchanges:
                    exchanges.pop(place).close()
                await asyncio.sleep(_PAUSE_AFTER_ERROR_S)
            max_tokens = job.max_tokens
            if job.alternating:
                place = (place + 1) % len(job.targets)
    finally:
        for exchange in exchanges.values():
            exchange.close()


async def _connected(target: Target, job: Job, counts: Counts) -> Exchange:
    loop = asyncio.get_running_loop()
    window = (job.window_begin, job.window_end)
    return (await loop.create_connection(lambda: Exchange(counts, window), target.host, target.port))[1]


async def work(job: Job) -> list[Counts]:
    """Do a job. Returns its counts: one, or one for each target if it alternates."""
    slots = [Counts() for _ in range(len(job.targets) if job.alternating else 1)]
    await asyncio.sleep(max(0.0, job.begin - time.time()))
    streams = [asyncio.create_task(stream(job, number, slots)) for number in job.streams]
    await asyncio.sleep(max(0.0, job.window_begin - time.time()))
    began, used = time.time(), _cpu_s()
    await asyncio.sleep(max(0.0, job.window_end - time.time()))
    cpu_cores = (_cpu_s() - used) / (time.time() - began)
    for task in streams:
        task.cancel()
    for outcome in await asyncio.gather(*streams, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    return [msgspec.structs.replace(counts, cpu_cores=cpu_cores) for counts in slots]


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def summed(parts: Sequence[Counts]) -> Counts:
    """The counts of all processes together. `cpu_cores` is that of the busiest."""
    return Counts(
        events=sum(part.events for part in parts),
        first_token_s=sorted(seconds for part in parts for seconds in part.first_token_s),
        ended=sum(part.ended for part in parts),
        ended_tokens=sum(part.ended_tokens for part in parts),
        ended_events=sum(part.ended_events for part in parts),
        whole=sum(part.whole for part in parts),
        whole_tokens=sum(part.whole_tokens for part in parts),
        whole_s=sum(part.whole_s for part in parts),
        prompt_tokens=max(part.prompt_tokens for part in parts),
        errors=[error for part in parts for error in part.errors][:_ERRORS_MAX],
        error_count=sum(part.error_count for part in parts),
        cpu_cores=max(part.cpu_cores for part in parts),
    )


def main() -> None:
    for line in sys.stdin.buffer:
        counts = uvloop.run(work(msgspec.json.decode(line, type=Job)))
        sys.stdout.buffer.write(msgspec.json.encode(counts) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
