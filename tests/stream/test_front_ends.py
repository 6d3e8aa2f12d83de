"""Front-end processes of a replica. Their engines are simulated, all else is as with vLLM."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from broadsheet.v1 import snapshot_pb2
from dataplane.engine.front_ends import channel, front_end, front_ends
from dataplane.engine.front_ends.channel import CallFailed, Channel, ChannelClosed
from dataplane.engine.front_ends.front_ends import RESTARTS_MAX, FrontEnds
from dataplane.engine.front_ends.messages import LoadedAdapter
from dataplane.engine.front_ends.process import FrontEndSettings
from dataplane.engine.simulated.front_ends import seats
from dataplane.engine.simulated.settings import SimulatedSettings
from dataplane.errors import AdapterError, EngineStartError
from dataplane.openai import wire
from dataplane.openai.adapter_names import engine_adapter_name
from tests.certificates import Authority, Files

SECRET = "s" * 16
CHAT = "/v1/chat/completions"
SLOW = SimulatedSettings(tokens_per_second=10, text="word " * 100, max_tokens=100)


def adapter(name: str = "m:pirate") -> snapshot_pb2.AdapterEntry:
    entry = snapshot_pb2.AdapterEntry(served_name=name)
    entry.revision.weights.digest = b"d" * 32
    return entry


class World:
    """A replica's front ends, and what it is asked to load."""

    def __init__(self, *, liveness_timeout_s: float = 30, files: Files | None = None) -> None:
        self.changes = 0
        self.ensured: list[str] = []
        self.refusal: AdapterError | None = None
        self.front_ends = FrontEnds(
            FrontEndSettings(
                host="127.0.0.1",
                secret=SECRET,
                tls_cert=files.cert if files is not None else None,
                tls_key=files.key if files is not None else None,
            ),
            ensure_adapter=self.ensure,
            on_change=self.change,
            liveness_timeout_s=liveness_timeout_s,
        )

    def change(self) -> None:
        self.changes += 1

    async def ensure(self, entry: snapshot_pb2.AdapterEntry) -> LoadedAdapter:
        name = engine_adapter_name(entry)
        self.ensured.append(name)
        if self.refusal is not None:
            raise self.refusal
        return LoadedAdapter(name, 1, "/adapters/1")

    async def start(self, count: int, settings: SimulatedSettings) -> tuple[str, ...]:
        self.front_ends.start(seats(settings), count)
        await self.front_ends.ready()
        return self.front_ends.urls


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.front_ends.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {SECRET}"}) as session:
        yield session


def body(**fields: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}]} | fields


async def ask(http: aiohttp.ClientSession, url: str, entry: snapshot_pb2.AdapterEntry | None = None) -> tuple[int, str]:
    headers = {wire.ADAPTER_HEADER: wire.encode_adapter(entry)} if entry is not None else {}
    async with http.post(url + CHAT, json=body(), headers=headers) as response:
        return response.status, await response.text()


async def until(holds: Callable[[], bool | Awaitable[bool]], what: str, seconds: float = 20) -> None:
    try:
        async with asyncio.timeout(seconds):
            while True:
                outcome = holds()
                if outcome if isinstance(outcome, bool) else await outcome:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_every_front_end_answers_on_a_port_of_its_own(world: World, http: aiohttp.ClientSession) -> None:
    urls = await world.start(2, SimulatedSettings(text="hi"))
    assert len(set(urls)) == 2
    for url in urls:
        status, text = await ask(http, url)
        assert (status, json.loads(text)["choices"][0]["message"]["content"]) == (200, "hi")
    async with aiohttp.ClientSession() as stranger, stranger.post(urls[0] + CHAT, json=body()) as response:
        assert response.status == 401
    pids = world.front_ends.pids
    await world.front_ends.stop()
    assert not any(is_running(pid) for pid in pids)
    assert world.front_ends.urls == ()


async def test_front_ends_have_the_certificate_of_their_replica(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    authority = Authority(tmp_path)
    world = World(files=authority.issue())
    (url,) = await world.start(1, SimulatedSettings())
    trust = ssl.create_default_context(cafile=str(authority.file))
    async with http.post(url + CHAT, json=body(), ssl=trust) as response:
        assert (response.status, response.url.scheme) == (200, "https")
    await world.front_ends.stop()


async def test_requests_are_counted_over_all_front_ends(world: World, http: aiohttp.ClientSession) -> None:
    urls = await world.start(2, SLOW)
    asking = [asyncio.create_task(ask(http, url)) for url in (urls[0], urls[0], urls[1])]

    async def counted(count: int) -> bool:
        return await world.front_ends.in_flight() == count

    await until(lambda: counted(3), "three requests")
    for task in asking:
        task.cancel()
    await until(lambda: counted(0), "the ends of all requests")


async def test_an_adapter_is_asked_for_once_by_each_front_end(world: World, http: aiohttp.ClientSession) -> None:
    urls = await world.start(2, SimulatedSettings())
    name = engine_adapter_name(adapter())
    for _ in range(2):
        for url in urls:
            assert (await ask(http, url, adapter()))[0] == 200
    assert world.ensured == [name, name]
    # Forgotten by both, it is asked for again.
    assert await world.front_ends.forget_adapter(name)
    assert (await ask(http, urls[0], adapter()))[0] == 200
    assert world.ensured == [name] * 3


async def test_an_adapter_that_the_engine_refuses_is_refused_as_by_the_replica(
    world: World, http: aiohttp.ClientSession
) -> None:
    (url,) = await world.start(1, SimulatedSettings())
    world.refusal = AdapterError("no such module", reason="ADAPTER_LOAD_FAILED", retry_after_s=7)
    async with http.post(
        url + CHAT, json=body(), headers={wire.ADAPTER_HEADER: wire.encode_adapter(adapter())}
    ) as response:
        assert response.headers[wire.ADAPTER_FAILED_HEADER] == "1"
        assert response.headers["retry-after"] == "7"
        assert "no such module" in await response.text()
    world.refusal = None
    assert (await ask(http, url, adapter()))[0] == 200


async def test_an_adapter_in_use_is_not_forgotten(world: World, http: aiohttp.ClientSession) -> None:
    urls = await world.start(2, SLOW)
    name = engine_adapter_name(adapter())
    asking = asyncio.create_task(ask(http, urls[1], adapter()))

    async def is_asked() -> bool:
        return await world.front_ends.in_flight() == 1

    await until(is_asked, "the request")
    assert not await world.front_ends.forget_adapter(name)
    asking.cancel()
    await until(lambda: world.front_ends.forget_adapter(name), "the adapter to be forgotten")


async def test_a_killed_front_end_is_replaced(world: World, http: aiohttp.ClientSession) -> None:
    urls = await world.start(2, SLOW)
    asking = asyncio.create_task(ask(http, urls[0]))

    async def is_asked() -> bool:
        return await world.front_ends.in_flight() == 1

    await until(is_asked, "the request")
    os.kill(world.front_ends.pids[0], signal.SIGKILL)
    with pytest.raises(aiohttp.ClientError):
        await asking
    await until(lambda: world.front_ends.urls[:1] == urls[1:], "its URL to go")
    await until(lambda: len(world.front_ends.urls) == 2, "another front end")
    assert urls[0] not in world.front_ends.urls
    assert await world.front_ends.in_flight() == 0
    assert not world.front_ends.failed
    async with http.post(world.front_ends.urls[1] + CHAT, json=body(max_tokens=1)) as response:
        assert response.status == 200


async def test_a_front_end_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_end, "LOAD_TIMEOUT_S", 0.1)
    world = World(liveness_timeout_s=0.5)
    (url,) = await world.start(1, SimulatedSettings())
    (pid,) = world.front_ends.pids
    os.kill(pid, signal.SIGSTOP)
    # It may have a request as long as it does not say otherwise.
    assert await world.front_ends.in_flight() == 1
    await until(lambda: world.front_ends.urls not in ((), (url,)), "another front end")
    assert not is_running(pid)
    await world.front_ends.stop()


async def test_front_ends_that_end_again_and_again_are_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_ends, "RESTARTS_MAX", 1)
    assert RESTARTS_MAX > 1
    (url,) = await world.start(1, SimulatedSettings())
    os.kill(world.front_ends.pids[0], signal.SIGKILL)
    await until(lambda: world.front_ends.urls not in ((), (url,)), "another front end")
    os.kill(world.front_ends.pids[0], signal.SIGKILL)
    await until(lambda: not world.front_ends.urls, "the end of the last")
    assert world.front_ends.failed
    assert world.front_ends.pids == ()


async def refuse_to_open() -> None:
    raise EngineStartError("no tokenizer", reason="SOURCE_NOT_FOUND")


async def crash() -> None:
    os._exit(3)


class BadSeat:
    def __init__(self, opening: Callable[[], Awaitable[None]]) -> None:
        self.opening = opening

    def taken(self) -> None:
        pass

    async def left(self) -> None:
        pass


@pytest.mark.parametrize(
    ("opening", "words", "reason"),
    [
        (refuse_to_open, "no tokenizer", "SOURCE_NOT_FOUND"),
        (crash, "ended while it started", "ENGINE_START_FAILED"),
    ],
)
async def test_a_front_end_that_cannot_start_fails_the_start(
    world: World, opening: Callable[[], Awaitable[None]], words: str, reason: str
) -> None:
    world.front_ends.start([BadSeat(opening)], 1)  # type: ignore[list-item]  # it opens nothing
    with pytest.raises(EngineStartError, match=words) as raised:
        await world.front_ends.ready()
    assert raised.value.reason == reason


async def test_front_ends_end_with_a_replica_that_is_killed() -> None:
    program = """
        import asyncio, sys
        from tests.stream.test_front_ends import SimulatedSettings, World

        async def main():
            world = World()
            await world.start(2, SimulatedSettings())
            print(*world.front_ends.pids, flush=True)
            await asyncio.sleep(600)

        if __name__ == "__main__":
            asyncio.run(main())
    """
    with subprocess.Popen(  # noqa: ASYNC220  # one line of it is read
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    ) as replica:
        assert replica.stdout is not None
        pids = [int(word) for word in (await asyncio.to_thread(replica.stdout.readline)).split()]
        assert len(pids) == 2
        # One cannot read that its channel was closed.
        os.kill(pids[1], signal.SIGSTOP)
        replica.kill()
        await until(lambda: not is_running(pids[0]), "the first to end", 5)
        os.kill(pids[1], signal.SIGCONT)
        await until(lambda: not is_running(pids[1]), "the second to end", 5)


# --- the channel ----------------------------------------------------------------------------------


async def echo(method: str, argument: bytes) -> bytes:
    match method:
        case "echo":
            return argument
        case "wait":
            await asyncio.Event().wait()
    raise ValueError(f"unknown call: {method}")


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Channel, Channel]]:
    made = tuple(Channel(end, echo) for end in socket.socketpair())
    running = [asyncio.create_task(end.run()) for end in made]
    yield made[0], made[1]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_both_ends_call_at_the_same_time(ends: tuple[Channel, Channel]) -> None:
    arguments = [str(number).encode() * 1000 for number in range(200)]
    answers = await asyncio.gather(*(end.call("echo", argument) for argument in arguments for end in ends))
    assert answers == [argument for argument in arguments for _ in ends]


async def test_a_call_that_fails_or_is_not_answered_harms_no_other(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(CallFailed, match="unknown call: dance"):
        await ends[0].call("dance")
    with pytest.raises(TimeoutError):
        await ends[0].call("wait", timeout_s=0.05)
    with pytest.raises(CallFailed, match="allowed are"):
        await ends[0].call("echo", b"x" * (channel.MESSAGE_BYTES_MAX + 1))
    assert await ends[0].call("echo", b"a") == b"a"


@pytest.mark.parametrize("sent", [b"", b"\xff\xff\xff\xffrest", b"\0\0\0\3abc", b"\0\0\0\x09abc"])
async def test_calls_fail_when_the_other_end_goes_or_breaks_the_protocol(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    end = Channel(ours, echo)
    running = asyncio.create_task(end.run())
    call = asyncio.create_task(end.call("echo"))
    await asyncio.sleep(0.01)
    theirs.sendall(sent)
    theirs.close()
    with pytest.raises(ChannelClosed):
        await call
    await running
    with pytest.raises(ChannelClosed):
        await end.call("echo")
