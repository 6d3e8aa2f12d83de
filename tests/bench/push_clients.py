"""A process with many data planes for `bench_push`: real streams, no catalog.

    python -m tests.bench.push_clients    (reads orders on stdin, one JSON object a line)

Each data plane has a connection of its own. It checks what a data plane must check of a change
(order, blob digests, root digest), and acknowledges it. What all of them get is the same, so the
process checks each change once: it measures the control plane and not itself.

Orders: `{"open": …}` opens streams, `{"storm": true}` closes all of them and opens them again at
once. Answers, one JSON object a line: `opened` and `storm` with the milliseconds until each stream
was current, `active` for each catalog revision with the times at which it was acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from dataplane.sync.channel import insecure_channel
from dataplane.sync.stream.batches import messages_of
from protocol.catalog_digest import CatalogDigest, blob_digest


@dataclass(kw_only=True)
class Catalog:
    """What the process knows of the catalog: the digest of each snapshot that it has come to."""

    digests: dict[bytes, CatalogDigest]
    """By root digest. The first is given, so that no stream needs the whole catalog."""

    def apply(self, base: snapshot_pb2.Position, to: snapshot_pb2.Position, chunks: list[pb.Chunk]) -> None:
        """Check that new entries lead from `base` to `to`."""
        if to.digest in self.digests:
            return
        digest = self.digests[base.digest]
        for chunk in chunks:
            assert not chunk.removed, "the benchmark only adds"
            for entry in chunk.entries:
                assert blob_digest(entry.blob) == entry.ref.digest, "the blob is what its digest says"
                digest = digest.added(entry.ref.name, entry.ref.type, entry.ref.digest)
        assert digest.root() == to.digest, "the change comes out"
        self.digests[to.digest] = digest


@dataclass(kw_only=True)
class Acknowledged:
    """When each catalog revision was acknowledged, by every data plane of the process."""

    expected: int = 0
    times: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, revision: int) -> None:
        times = self.times[revision]
        times.append(time.monotonic())
        if len(times) == self.expected:
            tell({"active": revision, "times": self.times.pop(revision)})


class Plane:
    """One data plane."""

    def __init__(self, order: Mapping[str, Any], number: int, catalog: Catalog, acknowledged: Acknowledged) -> None:
        self._order = order
        self._number = number
        self._catalog = catalog
        self._acknowledged = acknowledged
        self._serving = snapshot_pb2.Position(
            store_uid=order["store_uid"], revision=order["revision"], digest=bytes.fromhex(order["digest"])
        )
        self._base = self._serving
        self._chunks: list[pb.Chunk] = []

    async def run(self, current: asyncio.Future[float]) -> None:
        """Hold a stream until cancelled. `current` gets the time of the first Intent."""
        async with insecure_channel(self._order["address"]) as channel:
            call = SnapshotServiceStub(channel).Sync(metadata=(("authorization", f"Bearer {self._order['token']}"),))
            await call.write(pb.SyncRequest(hello=self._hello()))
            while isinstance(response := await call.read(), pb.SyncResponse):
                for message in messages_of(response):
                    answer = self._receive(message, current)
                    if answer is not None:
                        await call.write(answer)
            raise RuntimeError(f"the stream ended: {await call.code()} {await call.details()}")

    def _receive(self, response: pb.SyncResponse, current: asyncio.Future[float]) -> pb.SyncRequest | None:
        """Take a message. Returns what to answer, if anything."""
        kind = response.WhichOneof("message")
        if kind == "intent":
            if not current.done():
                current.set_result(time.monotonic())
            assert response.intent.mode in (pb.Intent.MODE_NONE, pb.Intent.MODE_DELTA), "it has the catalog"
            self._base, self._chunks = response.intent.base, []
        elif kind == "chunk":
            self._chunks.append(response.chunk)
        elif kind == "commit":
            self._catalog.apply(self._base, response.commit.to, self._chunks)
            self._serving = response.commit.to
            self._acknowledged.add(self._serving.revision)
            return pb.SyncRequest(status=pb.Status(target=self._serving, serving=self._serving, phase=pb.PHASE_ACTIVE))
        elif kind == "heartbeat":
            return pb.SyncRequest(status=pb.Status(serving=self._serving))
        return None

    def _hello(self) -> pb.Hello:
        return pb.Hello(
            data_plane=f"plane-{self._number}",
            instance_uid=f"bench-{self._number}",
            have=self._serving,
            software_version="bench",
            features=[pb.FEATURE_DELTA, pb.FEATURE_MANIFEST, pb.FEATURE_BATCH],
        )


class Planes:
    """All data planes of the process."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        digest = CatalogDigest.from_bytes(bytes.fromhex(order["state"]), order["entry_count"])
        catalog = Catalog(digests={bytes.fromhex(order["digest"]): digest})
        self._acknowledged = Acknowledged()
        numbers = range(order["first"], order["first"] + order["count"])
        self._planes = [Plane(order, number, catalog, self._acknowledged) for number in numbers]
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, what: str, *, at_once: int) -> None:
        """Open all streams, and tell how long each took to be current, in milliseconds."""
        self._acknowledged.expected = len(self._planes)
        loop = asyncio.get_running_loop()
        gate = asyncio.Semaphore(at_once)
        current = [loop.create_future() for _ in self._planes]
        began = time.monotonic()

        async def start(plane: Plane, done: asyncio.Future[float]) -> None:
            async with gate:
                task = loop.create_task(plane.run(done))
                task.add_done_callback(_fail)
                self._tasks.append(task)
                await done

        await asyncio.gather(*(start(plane, done) for plane, done in zip(self._planes, current, strict=True)))
        tell({what: [round((done.result() - began) * 1000, 1) for done in current]})

    async def close(self) -> None:
        """End all streams without a word, as a lost network does."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()


def _fail(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more
            tell({"failed": f"{type(error).__name__}: {error}"})


def tell(answer: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def serve() -> None:
    """Carry out orders until stdin ends."""
    planes: Planes | None = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        if "open" in order:
            planes = Planes(order["open"])
            await planes.open("opened", at_once=50)
        elif planes is not None:
            await planes.close()
            await planes.open("storm", at_once=order["storm"])
    if planes is not None:
        await planes.close()


if __name__ == "__main__":
    asyncio.run(serve())
