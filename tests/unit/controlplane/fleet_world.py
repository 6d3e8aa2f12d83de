"""A fleet with streams that tests speak on, over a store of data planes in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from controlplane.catalog.convert import position_to_proto
from controlplane.catalog.domain import DataPlaneRecord, Head, Identity, Position
from controlplane.fleet.fleet import Fleet, fleet_of
from controlplane.fleet.state import FleetLimits
from controlplane.push.fan_out import FanOut, ShutdownSettings
from controlplane.push.stream import Stream
from controlplane.push.subscription.machine import Subscription
from controlplane.push.subscription.timing import Limits


class Records:
    """A store of data planes that counts writes."""

    def __init__(self) -> None:
        self.records: dict[str, DataPlaneRecord] = {}
        self.writes = 0

    async def upsert_data_plane(self, *records: DataPlaneRecord) -> None:
        self.writes += 1
        self.records.update({record.id: record for record in records})

    async def get_data_plane(self, data_plane_id: str) -> DataPlaneRecord | None:
        return self.records.get(data_plane_id)


def record(data_plane_id: str, *, serving: Position | None = None) -> DataPlaneRecord:
    """What the database has of a data plane that connected once."""
    then = datetime(2025, 12, 1, tzinfo=UTC)
    return DataPlaneRecord(
        id=data_plane_id,
        instance_uid="stored",
        serving=serving,
        target=serving,
        phase=pb.PHASE_ACTIVE if serving else pb.PHASE_UNSPECIFIED,
        reason="",
        message="",
        http_address="",
        software_version="",
        connect_time=then,
        last_seen_time=then,
    )


class Clock:
    """A time that moves when a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def at(revision: int, store_uid: str = "s") -> Position:
    return Position(store_uid=store_uid, revision=revision, digest=bytes([revision % 256]) * 32)


def head(revision: int) -> Head:
    return Head(position=at(revision), entry_count=0)


def resource(name: str) -> status_pb2.ResourceStatus:
    return status_pb2.ResourceStatus(name=name, state=status_pb2.RESOURCE_STATE_READY)


def hello(
    data_plane_id: str = "dp", *, have: Position | None = None, rejected: Sequence[Position] = ()
) -> pb.SyncRequest:
    return pb.SyncRequest(
        hello=pb.Hello(
            data_plane=data_plane_id,
            instance_uid="i",
            have=position_to_proto(have) if have else None,
            rejected=[position_to_proto(position) for position in rejected],
        )
    )


class World:
    """A fleet and its fan-out."""

    def __init__(
        self,
        revision: int = 5,
        *,
        limits: FleetLimits | None = None,
        shutdown: ShutdownSettings | None = None,
        write_pause_s: float = 0,
    ) -> None:
        self.records, self.clock = Records(), Clock()
        self.fleet: Fleet = fleet_of(self.records, head=head(revision), limits=limits, own_write_pause_s=write_pause_s)
        self.fan_out = FanOut(self.fleet, now=self.clock, settings=shutdown)

    def stream(self) -> Stream:
        """A stream that has yet to say Hello."""
        return Stream(Subscription(head=self.fan_out.head, limits=Limits(), now_s=0))

    def greeted(
        self, data_plane_id: str = "dp", *, have: Position | None = None, rejected: Sequence[Position] = ()
    ) -> Stream:
        """A stream that has said Hello, and is yet to be attached."""
        stream = self.stream()
        stream.subscription.receive(hello(data_plane_id, have=have, rejected=rejected), 0)
        return stream

    async def connect(
        self,
        data_plane_id: str = "dp",
        *,
        have: Position | None = None,
        rejected: Sequence[Position] = (),
        identity: Identity = Identity.LOCAL,
    ) -> Stream:
        """A stream that has said Hello, and is attached."""
        stream = self.greeted(data_plane_id, have=have, rejected=rejected)
        stream.identity = identity
        self.fan_out.attach(stream, await self.fan_out.prepare(data_plane_id, identity))
        return stream

    def say(self, stream: Stream, status: pb.Status) -> None:
        """Receive a Status on a stream."""
        self.fan_out.received(stream, stream.subscription.receive(pb.SyncRequest(status=status), 0))


async def settle() -> None:
    """Let other tasks run."""
    for _ in range(5):
        await asyncio.sleep(0)
