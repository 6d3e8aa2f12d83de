"""What `kill -9` costs the callers: each part of a running data plane is killed in turn under load.

    python -m tests.bench.bench_faults [--clients 50] [--seconds 20] [--engine SIMULATED|VLLM]

Both planes run on this machine as users run them, with one model. That is a SIMULATED model with
two replicas, or SmolLM2-135M on vLLM with one. Of vLLM, the engine's own process is killed, and
then stopped (`kill -STOP`), so that it hangs. Answers are streams of 20 tokens.

For each part the table shows: the requests; how many failed and how (before the first byte, in the
middle with OpenAI's error event, or cut); the time from the first failure to the last; and the time
until as many replicas as before run again and the model answers. The client retries nothing. It
keeps its connections, as the `openai` package does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import httpx
from rich.console import Console
from rich.table import Table

from broadsheet.demo.prepare_model import default_cache_dir, prepare_model
from tests.e2e.real_model import ENGINE
from tests.e2e.stack import Stack

MODEL = "m"
SPEC = {
    "engine": {"kind": "KIND_SIMULATED", "args": {"tokens_per_second": 40, "text": "one two three four five " * 4}},
    "scaling": {"min_replicas": 2, "max_replicas": 2},
    "admission": {"max_ongoing_requests": 100},
}
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Go on."}],
    "stream": True,
    "max_tokens": 20,
    "ignore_eos": True,
}
BEFORE_S = 3.0
"""Load before the kill, in seconds. A failure in it is not caused by the kill, and ends the run."""
HEALTHY_TIMEOUT_S = 120.0


@dataclass
class Load:
    """How the requests ended."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    failed_at: list[float] = field(default_factory=list)

    def fail(self, how: str) -> None:
        self.failed[how] += 1
        self.failed_at.append(time.monotonic())


async def client(http: aiohttp.ClientSession, load: Load, stop: asyncio.Event) -> None:
    """Ask again and again, with a short pause after a failure, as a client's backoff is."""
    while not stop.is_set():
        how = await ask(http)
        if how is None:
            load.answered += 1
        else:
            load.fail(how)
            await asyncio.sleep(0.1)


async def ask(http: aiohttp.ClientSession) -> str | None:
    """Send one request. Returns how it failed; None: it was answered."""
    begun = False
    try:
        async with http.post("/v1/chat/completions", json=BODY) as answer:
            if answer.status != 200:
                return f"status {answer.status}"
            text = b""
            async for chunk in answer.content.iter_any():
                begun = True
                text += chunk
    except aiohttp.ClientError as error:
        return "cut" if begun else f"no answer ({type(error).__name__})"
    if b'"error"' in text:
        return "error event"
    return None if text.endswith(b"data: [DONE]\n\n") else "cut"


def kill_process(stack: Stack, title: str) -> None:
    process, *_ = stack.processes(title)
    process.kill()


def stop_process(stack: Stack, title: str) -> None:
    """Make a process hang: it exists and does nothing."""
    process, *_ = stack.processes(title)
    process.suspend()


def kill_controlplane(stack: Stack) -> None:
    stack.controlplane.kill(signal.SIGKILL)


def replicas(stack: Stack) -> dict[str, int]:
    """How many replicas each application has."""
    return {
        "agent" if "agent" in name else "ingress" if "ingress" in name else "engine": len(ids)
        for name, ids in stack.applications().items()
    }


@dataclass(frozen=True)
class Fault:
    """A part, and how it is killed."""

    part: str
    kill: Callable[[Stack], None]


def engine_application(stack: Stack) -> str:
    (name,) = (name for name in stack.applications() if name.startswith(f"broadsheet-{MODEL}-"))
    return name


FAULTS: Sequence[Fault] = (
    Fault("engine replica (1 of 2)", lambda stack: stack.kill_replica(engine_application(stack))),
    Fault("agent", lambda stack: stack.kill_replica("broadsheet-agent")),
    Fault("ingress replica (1 of 2)", lambda stack: stack.kill_replica("broadsheet-ingress")),
    Fault("Serve controller", lambda stack: kill_process(stack, "ray::ServeController")),
    Fault("relay", lambda stack: kill_process(stack, "ray::RelayActor")),
    Fault("control plane", kill_controlplane),
)


VLLM_FAULTS: Sequence[Fault] = (
    Fault("vLLM's engine process (of 1 replica)", lambda stack: kill_process(stack, "VLLM::EngineCore")),
    Fault("the same, stopped (it hangs)", lambda stack: stop_process(stack, "VLLM::EngineCore")),
)


def answers(stack: Stack) -> bool:
    """Whether the model answers. Waits while the request is held."""
    try:
        answer = httpx.post(
            f"{stack.url}/v1/chat/completions", json=BODY | {"stream": False}, timeout=HEALTHY_TIMEOUT_S
        )
    except httpx.HTTPError:
        return False
    return answer.status_code == 200


async def healthy_again(stack: Stack, before: dict[str, int], since: float) -> float:
    """How long until as many replicas as before run and the model answers, in seconds."""
    while time.monotonic() - since < HEALTHY_TIMEOUT_S:
        try:
            now = await asyncio.to_thread(replicas, stack)
        except (AssertionError, TimeoutError):  # Ray Serve's controller does not answer yet
            now = {}
        if now == before and await asyncio.to_thread(answers, stack):
            return time.monotonic() - since
        await asyncio.sleep(0.5)
    return float("inf")


async def run_fault(stack: Stack, fault: Fault, clients: int, seconds: float) -> list[str]:
    """Kill a part under load. Returns a row of the table."""
    before = await asyncio.to_thread(replicas, stack)
    load, stop = Load(), asyncio.Event()
    connector = aiohttp.TCPConnector(limit=clients)
    timeout = aiohttp.ClientTimeout(total=HEALTHY_TIMEOUT_S)
    async with aiohttp.ClientSession(stack.url, connector=connector, timeout=timeout) as http:
        tasks = [asyncio.create_task(client(http, load, stop)) for _ in range(clients)]
        await asyncio.sleep(BEFORE_S)
        if load.failed:
            raise RuntimeError(f"requests failed before {fault.part} was killed: {dict(load.failed)}")
        killed_at = time.monotonic()
        await asyncio.to_thread(fault.kill, stack)
        healthy = asyncio.create_task(healthy_again(stack, before, killed_at))
        await asyncio.sleep(seconds)
        healthy_s = await healthy
        stop.set()
        await asyncio.gather(*tasks)
    failing_s = load.failed_at[-1] - load.failed_at[0] if load.failed_at else 0.0
    return [
        fault.part,
        str(load.answered + load.failed.total()),
        str(load.failed.total()),
        ", ".join(f"{count} {how}" for how, count in load.failed.most_common()) or "none",
        f"{failing_s:.1f}",
        f"{healthy_s:.1f}",
    ]


def register(stack: Stack, engine: str) -> None:
    """Register the model and wait for its replicas."""
    spec: dict[str, object] = SPEC
    if engine == "VLLM":
        weights = prepare_model(default_cache_dir(), print)
        spec = {"source": {"uri": f"file://{weights}"}, "engine": ENGINE, "scaling": {"min_replicas": 1}}
    with stack.client() as registry:
        registry.register_model(MODEL, spec=spec)
        registry.wait_until_serving(MODEL, timeout_s=120)
    deadline = time.monotonic() + HEALTHY_TIMEOUT_S
    while httpx.post(f"{stack.url}/v1/chat/completions", json=BODY | {"stream": False}, timeout=120).status_code != 200:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the model did not answer within {HEALTHY_TIMEOUT_S:g} s")
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0, help="load after each kill")
    parser.add_argument("--engine", choices=["SIMULATED", "VLLM"], default="SIMULATED")
    parser.add_argument("--only", default="", help="only the parts whose name holds this")
    arguments = parser.parse_args()
    screen = Console()
    table = Table("killed", "requests", "failed", "how", "failing, s", "healthy after, s")
    directory = Path(tempfile.mkdtemp(prefix="bs-faults-"))
    screen.print(f"{os.cpu_count()} cores; logs in {directory}", highlight=False)
    stack = Stack(directory)
    try:
        stack.start()
        register(stack, arguments.engine)
        for fault in FAULTS if arguments.engine == "SIMULATED" else VLLM_FAULTS:
            if arguments.only in fault.part:
                row = asyncio.run(run_fault(stack, fault, arguments.clients, arguments.seconds))
                screen.print("  ".join(row), highlight=False)
                table.add_row(*row)
    finally:
        stack.stop()
    screen.print(table)


if __name__ == "__main__":
    main()
