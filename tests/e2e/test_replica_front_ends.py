"""A replica with three front ends on real Ray Serve. Its engine is SIMULATED."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import psutil
import pytest

from broadsheet import Client
from tests.e2e.real_model import ask
from tests.e2e.stack import Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

MODEL = "many-fronts"
STREAMS = 12


@pytest.fixture
def replica(client: Client, stack: Stack) -> Iterator[psutil.Process]:
    """The process of a model's only replica. The model is deleted in the end."""
    args = {"api_server_count": 3, "tokens_per_second": 10, "text": "word " * 40, "max_tokens": 40}
    scaling = {"min_replicas": 0, "downscale_to_zero_delay": "2s", "idle": "SLEEP"}
    spec = {"engine": {"kind": "SIMULATED", "args": args}, "resources": {"cpus": 0}, "scaling": scaling}
    client.register_model(MODEL, spec=spec)
    client.wait_until_serving(MODEL, timeout_s=30)
    assert ask(stack, MODEL).startswith("word word")
    (application,) = [name for name in stack.applications() if name.startswith(f"broadsheet-{MODEL}-")]
    found = psutil.Process(stack.look("process", application))
    processes = [found, *front_ends(found)]
    yield found
    processes += front_ends(found)
    client.delete_model(MODEL)
    until(lambda: not any(process.is_running() for process in processes), 60, "the processes to end")


def front_ends(replica: psutil.Process) -> list[psutil.Process]:
    return [child for child in replica.children() if any("spawn_main" in word for word in child.cmdline())]


async def stream(http: httpx.AsyncClient, begun: asyncio.Semaphore) -> bool:
    """Whether a streamed answer came to its end."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": True}
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.aiter_lines()
        first = await anext(lines)
        begun.release()
        rest = [line async for line in lines]
    return first.startswith("data: {") and "data: [DONE]" in rest and not any('"error"' in line for line in rest)


async def broken_streams(url: str, victim: psutil.Process) -> int:
    """How many of many streams break when a process is killed."""
    begun = asyncio.Semaphore(0)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http, asyncio.TaskGroup() as group:
        streams = [group.create_task(stream(http, begun)) for _ in range(STREAMS)]
        for _ in streams:
            await begun.acquire()
        victim.kill()
    return sum(not task.result() for task in streams)


def test_a_killed_front_end_breaks_its_share_of_the_streams_and_is_replaced(
    stack: Stack, client: Client, replica: psutil.Process
) -> None:
    first = front_ends(replica)
    assert len(first) == 2
    broken = asyncio.run(broken_streams(stack.url, first[0]))
    # Each ingress replica spreads its own streams evenly.
    assert STREAMS // 3 - 2 <= broken <= STREAMS // 3 + 2
    until(lambda: len(front_ends(replica)) == 2 and first[0] not in front_ends(replica), 20, "another front end")
    assert first[1] in front_ends(replica)
    # All sleep and wake as one.
    until(lambda: client.get_model(MODEL).statuses[0].status.reason == "ASLEEP", 30, "the replica to sleep")
    for _ in range(4):
        assert ask(stack, MODEL).startswith("word word")
