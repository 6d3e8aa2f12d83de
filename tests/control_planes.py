"""Control plane processes on a shared database, for tests that kill them and for benchmarks."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc.aio

from broadsheet.v1 import registry_service_pb2_grpc
from tests.stream.access_world import entries, write_tokens

_START_TIMEOUT_S = 60.0


class Replica:
    """A control plane process that is started again whenever it ends."""

    def __init__(self, url: str, directory: Path, number: int, arguments: Sequence[str] = ()) -> None:
        self._url = url
        self._arguments = arguments
        self._directory = directory / f"replica{number}"
        self._log = directory / f"replica{number}.log"
        self._tokens = directory / "tokens.yaml"
        self._process: asyncio.subprocess.Process | None = None
        self.registry: registry_service_pb2_grpc.RegistryServiceAsyncStub | None = None
        """None: it is not running."""
        self.address = ""
        """Where it listens, or listened last."""
        self.metrics_address = ""
        """Where it shows its metrics, if it does."""

    async def run(self) -> None:
        """Keep it running until cancelled."""
        while True:
            with self._log.open("wb") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "controlplane", "--listen", "127.0.0.1:0", "--log-format", "json"),
                    *("--data-dir", str(self._directory), "--tokens-file", str(self._tokens)),
                    *self._arguments,
                    stderr=log,
                    env={**os.environ, "BROADSHEET_CONTROLPLANE_DATABASE_URL": self._url},
                    cwd=Path(__file__).parents[1],
                )
            try:
                self.address = await self._address()
                async with grpc.aio.insecure_channel(self.address) as channel:
                    self.registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
                    await self._process.wait()
                    self.registry = None
            finally:
                self.registry = None
                with suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()

    @property
    def pid(self) -> int:
        """Process id of the latest start."""
        assert self._process is not None, "the process was started"
        return self._process.pid

    def kill(self) -> None:
        """Send SIGKILL, whatever the process is doing."""
        assert self._process is not None, "the process was started"
        self.registry = None
        self._process.kill()

    async def _address(self) -> str:
        async with asyncio.timeout(_START_TIMEOUT_S):
            while True:
                for line in self._log.read_text().splitlines():
                    if '"metrics_listening"' in line and line.endswith("}"):
                        self.metrics_address = _address_in(line)
                    elif '"listening"' in line and line.endswith("}"):
                        return _address_in(line)
                assert self._process is not None, "the process was started"
                if self._process.returncode is not None:
                    raise RuntimeError(self._log.read_text())
                await asyncio.sleep(0.05)


def _address_in(line: str) -> str:
    return line.partition('"address": "')[2].partition('"')[0]


@asynccontextmanager
async def control_planes(
    url: str, directory: Path, *, count: int = 1, arguments: Sequence[str] = ()
) -> AsyncIterator[Sequence[Replica]]:
    """Run control plane processes on the database at `url`. All of them listen.

    Args:
        url: A PostgreSQL database; processes cannot share an SQLite file.
        directory: Gets their logs, tokens and data.
        count: How many processes.
        arguments: Further arguments of each.
    """
    write_tokens(directory / "tokens.yaml", entries())
    replicas = [Replica(url, directory, number, arguments) for number in range(count)]
    tasks = [asyncio.create_task(replica.run()) for replica in replicas]
    try:
        while not all(replica.registry for replica in replicas):
            for task in tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.05)
        yield replicas
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
