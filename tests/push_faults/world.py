"""Both planes as processes, changes that go on, and what must hold at the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import psutil

from broadsheet.v1 import (
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    model_pb2,
    registry_service_pb2_grpc,
    snapshot_pb2,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
)
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane.access.permissions import Role
from tests.ports import free_port
from tests.push_faults.proxy import Fault
from tests.registry_world import spec
from tests.stream.access_world import TOKENS, entries, write_tokens

MODELS = 100
TEXT_BYTES = 16_000
"""Of each model's card, so that the whole snapshot has more than one chunk."""
CHANGE_EVERY_S = 0.05
CALL_TIMEOUT_S = 5.0
START_TIMEOUT_S = 60.0
CONVERGE_TIMEOUT_S = 180.0
DATA_PLANE = "dp"

_METADATA = (("authorization", f"Bearer {TOKENS[Role.ADMIN]}"),)


@dataclass
class Process:
    """A process that is started again when it has ended."""

    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None

    async def start(self, more: Mapping[str, str] | None = None) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self.environment, **(more or {})},
                cwd=Path(__file__).parents[2],
            )

    @property
    def pid(self) -> int:
        assert self.process is not None, "it was started"
        return self.process.pid

    @property
    def is_stopped(self) -> bool:
        return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None, "it was started"
        self.process.send_signal(number)

    async def end(self) -> None:
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


@dataclass
class Served:
    """What a data plane has put into service, over all of its starts."""

    positions: list[tuple[int, str]] = field(default_factory=list)
    regressions: list[tuple[int, int]] = field(default_factory=list)
    """A revision, and the lower one that was put into service after it."""
    contradictions: list[int] = field(default_factory=list)
    """Revisions that were put into service with two contents."""

    def add(self, line: Mapping[str, Any]) -> None:
        if self.positions and line["revision"] < self.positions[-1][0]:
            self.regressions.append((self.positions[-1][0], line["revision"]))
        if dict(self.positions).get(line["revision"], line["digest"]) != line["digest"]:
            self.contradictions.append(line["revision"])
        self.positions.append((line["revision"], line["digest"]))


class World:
    """One control plane, one data plane, and a client that makes changes."""

    def __init__(self, directory: Path, url: str | None = None) -> None:
        """
        Args:
            directory: Gets everything that the processes write.
            url: A PostgreSQL database; None: an SQLite file.
        """
        self.directory = directory
        self.address = f"127.0.0.1:{free_port()}"
        self.data_plane_target = self.address
        self.network: Fault | None = None
        """What the proxy before the control plane does; None: there is none."""
        self.database_processes: Callable[[], list[psutil.Process]] | None = None
        """Finds those of the database server; None: it has none."""
        tokens = write_tokens(directory / "tokens.yaml", entries())
        self.controlplane = Process(
            (
                *(sys.executable, "-m", "tests.push_faults.control_plane", "--listen", self.address),
                *("--data-dir", str(directory / "controlplane"), "--tokens-file", str(tokens)),
            ),
            directory / "controlplane.log",
            {} if url is None else {"BROADSHEET_CONTROLPLANE_DATABASE_URL": url},
        )
        self.dataplane = Process((), directory / "dataplane.log")
        self.served = Served()
        self.acknowledged: dict[str, str] = {}
        """The text of each model that was acknowledged last."""
        self.revision = 0
        """The newest that was acknowledged."""
        self._reading: asyncio.Task[None] | None = None
        self._channel = grpc.aio.insecure_channel(
            self.address, options=(("grpc.max_reconnect_backoff_ms", 500), ("grpc.initial_reconnect_backoff_ms", 100))
        )
        self._registry = registry_service_pb2_grpc.RegistryServiceStub(self._channel)
        self._fleet = fleet_service_pb2_grpc.FleetServiceStub(self._channel)
        self._snapshots = snapshot_service_pb2_grpc.SnapshotServiceStub(self._channel)

    async def start_controlplane(self, more: Mapping[str, str] | None = None) -> None:
        await self.controlplane.start(more)

    async def start_dataplane(self, more: Mapping[str, str] | None = None) -> None:
        self.dataplane.command = (
            *(sys.executable, "-m", "tests.push_faults.data_plane", str(self.directory / "dataplane")),
            *(self.data_plane_target, TOKENS[Role.DATA_PLANE], DATA_PLANE),
        )
        await self.dataplane.start(more)
        self._reading = asyncio.create_task(self._read(self.dataplane.process))

    async def _read(self, process: asyncio.subprocess.Process | None) -> None:
        assert process is not None, "it was started"
        assert process.stdout is not None, "it was opened with one"
        while line := await process.stdout.readline():
            self.served.add(json.loads(line))

    async def fill(self) -> None:
        """Register the models."""
        for number in range(MODELS):
            await self.change(f"m{number}", timeout_s=START_TIMEOUT_S)

    async def change(self, model_id: str, *, timeout_s: float) -> None:
        """Change a model, with the same request again until there is an answer."""
        text = uuid.uuid4().hex
        request = pb.RegisterModelRequest(
            model_id=model_id,
            spec=spec(),
            card=model_pb2.ModelCard(display_name=text, description="x" * TEXT_BYTES),
            request_id=str(uuid.uuid4()),
        )
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    answer = await self._registry.RegisterModel(
                        request, metadata=_METADATA, timeout=CALL_TIMEOUT_S, wait_for_ready=True
                    )
                except grpc.aio.AioRpcError as error:
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                        raise
                    await asyncio.sleep(0.05)
                else:
                    self.acknowledged[model_id] = text
                    self.revision = max(self.revision, answer.catalog_revision)
                    return

    async def change_until(self, stop: asyncio.Event) -> None:
        """Make changes until told to stop."""
        number = 0
        while not stop.is_set():
            number += 1
            await self.change(f"m{number % MODELS}", timeout_s=CONVERGE_TIMEOUT_S)
            await asyncio.sleep(CHANGE_EVERY_S)

    async def converged(self) -> float:
        """Wait until the data plane serves the newest revision. Seconds that it took."""
        began = asyncio.get_running_loop().time()
        request = fleet_service_pb2.WaitForRevisionRequest(
            revision=self.revision, data_planes=[f"dataPlanes/{DATA_PLANE}"]
        )
        request.timeout.FromSeconds(5)
        async with asyncio.timeout(CONVERGE_TIMEOUT_S):
            while True:
                with suppress(grpc.aio.AioRpcError):
                    answer = await self._fleet.WaitForRevision(request, metadata=_METADATA, timeout=10)
                    if answer.active_everywhere:
                        return asyncio.get_running_loop().time() - began
                await asyncio.sleep(0.05)

    async def faults(self) -> list[str]:
        """What does not hold at the end. Empty: everything does."""
        found: list[str] = []
        if self.served.regressions:
            found.append(f"went back: {self.served.regressions}")
        if self.served.contradictions:
            found.append(f"two contents: {self.served.contradictions}")
        position, texts = await self._snapshot()
        served = dict(self.served.positions)
        if served.get(position.revision) != position.digest.hex():
            found.append(f"serves {self.served.positions[-1]}, the newest is {position.revision}")
        for model_id, text in self.acknowledged.items():
            if texts[model_id] != text:
                found.append(f"lost: {model_id}")
        return found

    async def _snapshot(self) -> tuple[Any, dict[str, str]]:
        texts: dict[str, str] = {}
        request = snapshot_service_pb2.FetchSnapshotRequest(page_size=1000)
        while True:
            page = await self._snapshots.FetchSnapshot(request, metadata=_METADATA, timeout=CALL_TIMEOUT_S)
            for entry in page.entries:
                message = _model_entry(entry.blob)
                texts[message.name.removeprefix("models/")] = message.revision.card.display_name
            if not page.next_page_token:
                return page.position, texts
            request.page_token = page.next_page_token

    async def close(self) -> None:
        await self.dataplane.end()
        await self.controlplane.end()
        if self._reading is not None:
            await asyncio.wait((self._reading,), timeout=5)
        await self._channel.close()


def _model_entry(blob: bytes) -> Any:
    return snapshot_pb2.ModelEntry.FromString(blob)


@asynccontextmanager
async def world(directory: Path, url: str | None = None) -> AsyncIterator[World]:
    """A world whose processes end with the block."""
    running = World(directory, url)
    try:
        yield running
    finally:
        await running.close()
