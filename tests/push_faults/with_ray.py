"""Kills and stops the parts of a running data plane while changes are pushed to it.

    python -m tests.push_faults.with_ray    (`make test-push-faults` runs it after the others)

Both planes run on this machine as users run them, with one SIMULATED model. Changes go on all the
time, and a caller asks `/v1/models` all the time. At the end of each fault the newest revision is
active, and no answer was from an older revision than one before.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table

from broadsheet import AsyncClient
from tests.bench.model_load import processes
from tests.bench.output import tell
from tests.e2e.stack import Stack

SPEC = {"engine": {"kind": "KIND_SIMULATED"}, "scaling": {"min_replicas": 1}}
PARTS = ("agent", "ingress", "relay")
STOPPED_S = 15.0
AFTER_S = 3.0
CHANGE_EVERY_S = 0.1
ASK_EVERY_S = 0.05
CONVERGE_TIMEOUT_S = 180.0
REVISION_HEADER = "x-broadsheet-revision"


@dataclass
class Caller:
    """Asks for the models all the time."""

    answered: int = 0
    unanswered: int = 0
    newest: int = 0
    went_back: list[tuple[int, int]] = field(default_factory=list)
    """A revision, and an older one that answered after it."""

    async def run(self, http: aiohttp.ClientSession) -> None:
        while True:
            try:
                async with http.get("/v1/models", timeout=aiohttp.ClientTimeout(2)) as answer:
                    await answer.read()
                    self._add(int(answer.headers[REVISION_HEADER]) if answer.status == 200 else 0)
            except (aiohttp.ClientError, TimeoutError):
                self.unanswered += 1
            await asyncio.sleep(ASK_EVERY_S)

    def _add(self, revision: int) -> None:
        if revision == 0:
            self.unanswered += 1
            return
        if revision < self.newest:
            self.went_back.append((self.newest, revision))
        self.answered += 1
        self.newest = max(self.newest, revision)


async def change_until(client: AsyncClient, stop: asyncio.Event) -> int:
    """Change the card of a model until told to stop. The newest catalog revision."""
    revision = number = 0
    while not stop.is_set():
        number += 1
        changed = await client.register_model("m", spec=SPEC, card={"description": f"{number}"})
        revision = changed.catalog_revision
        await asyncio.sleep(CHANGE_EVERY_S)
    return revision


async def one(stack: Stack, client: AsyncClient, part: str, number: signal.Signals) -> tuple[str, ...]:
    """Make one fault. A row of the table."""
    caller, stop = Caller(), asyncio.Event()
    async with aiohttp.ClientSession(stack.url) as http:
        asking = asyncio.create_task(caller.run(http))
        changing = asyncio.create_task(change_until(client, stop))
        await asyncio.sleep(AFTER_S)
        (process, *_) = await asyncio.to_thread(lambda: processes(stack)[part])
        process.send_signal(number)
        if number is signal.SIGSTOP:
            await asyncio.sleep(STOPPED_S)
            if process.is_running():
                process.send_signal(signal.SIGCONT)
        await asyncio.sleep(AFTER_S)
        stop.set()
        revision = await changing
        began = asyncio.get_running_loop().time()
        outcome = await client.wait_for_revision(revision, timeout_s=CONVERGE_TIMEOUT_S)
        took_s = asyncio.get_running_loop().time() - began
        await asyncio.sleep(1)
        asking.cancel()
        await asyncio.wait([asking])
    faults = []
    if not outcome.active_everywhere:
        faults.append("not current")
    if caller.newest < revision:
        faults.append(f"answered by {caller.newest}, the newest is {revision}")
    if caller.went_back:
        faults.append(f"went back: {caller.went_back[:3]}")
    fault = "kill -9" if number is signal.SIGKILL else f"stopped for {STOPPED_S:g} s"
    tell(f"  … {part}, {fault}: {'; '.join(faults) or 'held'}")
    answers = f"{caller.answered}, {caller.unanswered} failed"
    return part, fault, f"{took_s:.1f} s", answers, "; ".join(faults) or "none"


def faults() -> Iterator[tuple[str, signal.Signals]]:
    for part in PARTS:
        for number in (signal.SIGKILL, signal.SIGSTOP):
            yield part, number


async def run(stack: Stack) -> bool:
    """Make every fault in turn, and print the table. Whether everything held."""
    table = Table("part", "fault", "current after", "answers meanwhile", "gone back, not current")
    held = True
    async with AsyncClient(stack.controlplane_address) as client:
        await client.register_model("m", spec=SPEC)
        await client.wait_until_serving("models/m")
        for part, number in faults():
            row = await one(stack, client, part, number)
            held &= row[-1] == "none"
            table.add_row(*row)
            await asyncio.to_thread(stack.await_ready)
    Console(width=120).print(table)
    return held


def main() -> int:
    directory = Path(tempfile.mkdtemp(prefix="bs-push-faults-"))
    tell(f"{len(list(faults()))} faults of a running data plane; logs in {directory}")
    stack = Stack(directory)
    stack.start()
    try:
        return 0 if asyncio.run(run(stack)) else 1
    finally:
        stack.stop()


if __name__ == "__main__":
    sys.exit(main())
