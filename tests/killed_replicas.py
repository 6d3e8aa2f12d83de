"""Control planes on a shared PostgreSQL are killed at random moments while clients write.

`python -m tests.killed_replicas WRITES SEED` runs it with any size (`make test-kills`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import grpc.aio
from sqlalchemy import make_url

from broadsheet.v1 import model_pb2, registry_service_pb2, snapshot_pb2
from controlplane.access.permissions import Role
from tests.control_planes import Replica, control_planes
from tests.history import Write, violations
from tests.postgres_server import running_server
from tests.registry_world import spec
from tests.stream.access_world import TOKENS

REPLICAS = 3
CLIENTS = 16
MODELS = 8
"""Few, so that writers conflict."""

WRITES_PER_KILL = 40

_ATTEMPT_TIMEOUT_S = 10.0
_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

_METADATA = (("authorization", f"Bearer {TOKENS[Role.PUBLISHER]}"),)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a run."""

    kills: int
    attempts: int
    """RPCs that were sent. Each acknowledged write needed at least one."""
    wrong: Sequence[str]
    """Violations that the history checker found."""
    took_s: float


class Run:
    """Clients that write, replicas that are killed, and the acknowledged writes."""

    def __init__(self, replicas: Sequence[Replica], writes: int, seed: int) -> None:
        self._replicas = replicas
        self._values = iter([f"value-{number}" for number in range(writes)])
        self._random = random.Random(seed)
        self._kill_at = sorted(self._random.sample(range(1, writes), writes // WRITES_PER_KILL))
        self._progress = asyncio.Event()
        self.acknowledged: list[Write] = []
        self.kills = 0
        self.attempts = 0

    async def client(self) -> None:
        """Write values until none is left."""
        for value in self._values:
            request = registry_service_pb2.RegisterModelRequest(
                model_id=f"m{self._random.randrange(MODELS)}",
                spec=spec(),
                card=model_pb2.ModelCard(description=value),
                request_id=str(uuid.uuid4()),
            )
            began_s = time.monotonic()
            revision = await self._until_acknowledged(request)
            ended_s = time.monotonic()
            self.acknowledged.append(Write(value=value, began_s=began_s, ended_s=ended_s, revision=revision))
            self._progress.set()

    async def _until_acknowledged(self, request: registry_service_pb2.RegisterModelRequest) -> int:
        while True:
            registry = self._random.choice(self._replicas).registry
            if registry is None:
                await asyncio.sleep(0.01)
                continue
            self.attempts += 1
            try:
                answer = await registry.RegisterModel(request, metadata=_METADATA, timeout=_ATTEMPT_TIMEOUT_S)
                return int(answer.catalog_revision)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _RETRIED:
                    raise
            except asyncio.CancelledError:
                # Closing a channel cancels its calls. Only cancelling this task itself ends it.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise

    async def killer(self) -> None:
        """Kill a random replica at each of some random moments."""
        for count in self._kill_at:
            while len(self.acknowledged) < count:
                self._progress.clear()
                await self._progress.wait()
            running = [replica for replica in self._replicas if replica.registry is not None]
            if running:
                self._random.choice(running).kill()
                self.kills += 1


async def kill_while_writing(url: str, directory: Path, *, writes: int, seed: int) -> Result:
    """Write through replicas that are killed at random moments, then check what was stored."""
    async with control_planes(url, directory, count=REPLICAS) as replicas:
        run = Run(replicas, writes, seed)
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            killing = group.create_task(run.killer())
            clients = [group.create_task(run.client()) for _ in range(CLIENTS)]
            await asyncio.wait(clients)
            killing.cancel()
        took_s = time.monotonic() - began_s
    wrong = await _wrong(url, run.acknowledged, writes)
    return Result(kills=run.kills, attempts=run.attempts, wrong=wrong, took_s=took_s)


async def _wrong(url: str, acknowledged: Sequence[Write], writes: int) -> list[str]:
    parsed = make_url(url)
    connection = await asyncpg.connect(host=str(parsed.query["host"]), user="postgres", database=parsed.database)
    try:
        head = await connection.fetchval("SELECT revision FROM catalog")
        revisions = await connection.fetch("SELECT catalog_revision, card FROM model_revisions")
        numbers = await connection.fetch(
            "SELECT model_id, number FROM model_revisions ORDER BY model_id, catalog_revision"
        )
        shown = await connection.fetch("SELECT e.from_revision, b.blob FROM entries e JOIN blobs b USING (digest)")
        audited = [row[0] for row in await connection.fetch("SELECT catalog_revision FROM audit_events ORDER BY 1")]
    finally:
        await connection.close()
    found = {row["catalog_revision"]: model_pb2.ModelCard.FromString(row["card"]).description for row in revisions}
    wrong = violations(acknowledged, found, head)
    if len(acknowledged) != writes or len(revisions) != writes:
        wrong.append(f"{len(acknowledged)} acknowledged, {len(revisions)} stored, of {writes}")
    if audited != list(range(1, head + 1)):
        wrong.append(f"the audit log has {len(audited)} events for {head} revisions")
    published = {
        row["from_revision"]: snapshot_pb2.ModelEntry.FromString(row["blob"]).revision.card.description for row in shown
    }
    if published != found:
        wrong.append("the snapshots differ from the models")
    counted: dict[str, int] = {}
    for row in numbers:
        counted[row["model_id"]] = counted.get(row["model_id"], 0) + 1
        if row["number"] != counted[row["model_id"]]:
            wrong.append(f"{row['model_id']}: revision {row['number']} is not in the order of the catalog")
    return wrong


def main() -> int:
    writes = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1_000_000)
    with tempfile.TemporaryDirectory() as directory, running_server() as server:
        result = asyncio.run(kill_while_writing(server.new_database(), Path(directory), writes=writes, seed=seed))
    sys.stdout.write(
        f"seed {seed}: {writes} writes by {CLIENTS} clients through {REPLICAS} replicas in {result.took_s:.0f} s, "
        f"{result.kills} kills, {result.attempts} calls; {len(result.wrong)} violations\n"
    )
    for violation in result.wrong[:20]:
        sys.stdout.write(f"  {violation}\n")
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
