"""Requests to many models of a running data plane, and what its processes cost meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence

import aiohttp
import psutil

from dataplane.agent.deployments import SYSTEM_APPLICATIONS
from tests.e2e.stack import Stack

IDLE_S = 5
"""`downscale_to_zero_delay` of the models that are asked. Those of the curve stay until the end."""
ASK_EVERY_S = 5.0
"""Time between two requests to a model of the curve."""
LIST_CALLS = 300
GONE_TIMEOUT_S = 180.0
PARTS: Mapping[str, str] = {
    "Serve's controller": "ray::ServeController",
    "agent": "ray::ServeReplica:broadsheet-agent",
    "ingress": "ray::ServeReplica:broadsheet-ingress",
    "relay": "ray::RelayActor",
}
"""The data plane's processes, by the beginning of the title that Ray gives them."""


def processes(stack: Stack) -> dict[str, list[psutil.Process]]:
    """The processes of each part of the data plane, and of the control plane."""
    assert stack.controlplane.popen is not None
    found = {part: stack.processes(beginning) for part, beginning in PARTS.items()}
    found["control plane"] = [psutil.Process(stack.controlplane.popen.pid)]
    return found


async def cpu_shares(stack: Stack, seconds: float) -> dict[str, float]:
    """CPU seconds per second of each part, over all of its processes."""
    parts = processes(stack)

    def used() -> dict[str, float]:
        return {part: sum(sum(process.cpu_times()[:2]) for process in found) for part, found in parts.items()}

    before, began = used(), time.perf_counter()
    await asyncio.sleep(seconds)
    after, passed = used(), time.perf_counter() - began
    return {part: (after[part] - before[part]) / passed for part in parts}


async def list_latencies(http: aiohttp.ClientSession, query: str) -> list[float]:
    """How long each of many `GET /v1/models` took, in ms, one at a time on one connection."""
    taken = []
    for _ in range(LIST_CALLS):
        began = time.perf_counter()
        async with http.get(f"/v1/models{query}") as answer:
            await answer.read()
            assert answer.status == 200
        taken.append((time.perf_counter() - began) * 1000)
    return taken


async def ask(http: aiohttp.ClientSession, model: str) -> float:
    """Ask a model. Returns how long the answer took, in seconds.

    Raises:
        RuntimeError: it did not answer.
    """
    body = {"model": model, "messages": [{"role": "user", "content": "Are you there?"}]}
    began = time.perf_counter()
    async with http.post("/v1/chat/completions", json=body) as answer:
        text = await answer.text()
    if answer.status != 200 or model not in text:
        raise RuntimeError(f"{model} was answered {answer.status}: {text[:300]}")
    return time.perf_counter() - began


async def ask_all(http: aiohttp.ClientSession, models: Sequence[str], at_a_time: int) -> list[float]:
    """Ask each of `models`, so many at a time. Returns how long each answer took, in seconds."""
    left, taken = iter(models), []

    async def worker() -> None:
        for model in left:
            taken.append(await ask(http, model))

    async with asyncio.TaskGroup() as group:
        for _ in range(at_a_time):
            group.create_task(worker())
    return taken


@contextlib.asynccontextmanager
async def in_use(http: aiohttp.ClientSession, models: Sequence[str]) -> AsyncIterator[None]:
    """Ask each of `models` every `ASK_EVERY_S` while the block runs."""

    async def keep_asking() -> None:
        while True:
            for model in models:
                await ask(http, model)
                await asyncio.sleep(ASK_EVERY_S / len(models))
            await asyncio.sleep(0)

    if not models:
        yield
        return
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(keep_asking())
        yield
        asking.cancel()


async def applications(stack: Stack) -> Mapping[str, int]:
    """How many replicas each model's application has, in whatever state."""
    found: Mapping[str, int] = await asyncio.to_thread(stack.look, "all_replicas")
    return {name: count for name, count in found.items() if name not in SYSTEM_APPLICATIONS}


async def wait_for_count(stack: Stack, count: int) -> float:
    """Wait until there are at most `count` applications. Returns how long that took, in seconds."""
    began = time.perf_counter()
    while len(await applications(stack)) > count:
        if time.perf_counter() - began > GONE_TIMEOUT_S:
            raise RuntimeError(f"there were more than {count} applications after {GONE_TIMEOUT_S:g} s")
        await asyncio.sleep(1)
    return time.perf_counter() - began
