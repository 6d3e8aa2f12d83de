"""Many data planes at one control plane, without a network: the real machines of both ends."""

from __future__ import annotations

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.domain import Head, Identity
from controlplane.fleet.data_plane import Session
from controlplane.fleet.fleet import Fleet
from controlplane.push.chunks import ChunkCache
from controlplane.push.fan_out import FanOut
from controlplane.push.stream import Stream
from controlplane.push.subscription.machine import Subscription
from controlplane.push.subscription.timing import Limits
from controlplane.push.subscription.transfer import ChangeRequest
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.snapshot import Position
from dataplane.sync.events import Accepted, Candidate
from dataplane.sync.events import Identity as ClientIdentity
from dataplane.sync.subscriber import Subscriber
from tests.simulation.parts.control_plane import _EPOCH
from tests.simulation.parts.store import Store
from tests.simulation.virtual.tasks import run_now


class FleetInMemory:
    """Streams of a fleet. Messages are serialised and parsed as on the wire, at both ends."""

    def __init__(self, fleet: Fleet, store: Store) -> None:
        self.bytes_sent = 0
        self._fan_out = FanOut(fleet, now=lambda: _EPOCH)
        self._chunks = ChunkCache(store)
        self._sessions = 0
        self._ends: list[tuple[Stream, Subscriber]] = []

    def connect(self, count: int) -> None:
        """Let so many data planes connect, which serve the newest snapshot already."""
        head = self._fan_out.head.position
        serving = Position(store_uid=head.store_uid, revision=head.revision, digest=head.digest)
        for number in range(count):
            identity = ClientIdentity(data_plane=f"dp-{number}", instance_uid=f"instance-{number}")
            self._open(Subscriber(identity, policy=Policy(allowed_sources=("file:///",)), serving=serving))

    def reconnect_all(self) -> None:
        """Let each data plane lose its stream, and connect again with nothing new."""
        ends, self._ends = self._ends, []
        for stream, subscriber in ends:
            self._fan_out.detach(stream)
            subscriber.close()
            self._open(subscriber)

    def push(self, head: Head) -> None:
        """Send a new snapshot to all, until each has acknowledged it."""
        self._fan_out.publish(head)
        for stream, subscriber in self._ends:
            self._talk(stream, subscriber)

    def _open(self, subscriber: Subscriber) -> None:
        stream = Stream(Subscription(head=self._fan_out.head, limits=Limits(), now_s=0.0))
        stream.identity = Identity.BOUND
        subscriber.open()
        hello = subscriber.take_message()
        assert hello is not None, "Hello is due"
        stream.subscription.receive(hello, 0.0)
        self._sessions += 1
        self._fan_out.attach(stream, Session(self._sessions))
        self._ends.append((stream, subscriber))
        self._talk(stream, subscriber)

    def _talk(self, stream: Stream, subscriber: Subscriber) -> None:
        """Exchange messages until neither end has one."""
        goes_on = True
        while goes_on:
            goes_on = False
            while (content := self._next(stream.subscription)) is not None:
                goes_on = True
                self.bytes_sent += len(content)
                event = subscriber.receive(pb.SyncResponse.FromString(content))
                if isinstance(event, Candidate):
                    subscriber.decided(Accepted(with_errors=False))
            while (request := subscriber.take_message()) is not None:
                goes_on = True
                received = pb.SyncRequest.FromString(request.SerializeToString())
                self._fan_out.received(stream, stream.subscription.receive(received, 0.0))

    def _next(self, subscription: Subscription) -> bytes | None:
        """The next message of the control plane, as it is written; empty: nothing to write."""
        output = subscription.take_output(0.0)
        if output is None:
            return None
        if isinstance(output, ChangeRequest):
            output = subscription.announce(output, can_send_change=run_now(self._chunks.can_send(output)))
        if isinstance(output, pb.SyncResponse):
            return output.SerializeToString()
        piece = run_now(self._chunks.get(output))
        if piece is None:
            subscription.change_written()
            return self._next(subscription)
        subscription.chunk_written(piece.written)
        return piece.content
