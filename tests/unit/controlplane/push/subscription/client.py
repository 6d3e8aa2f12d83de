"""What a client sends on a stream, for tests of the state machine."""

from __future__ import annotations

import pytest

from broadsheet.v1 import snapshot_pb2, status_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import position_to_proto
from controlplane.catalog.domain import Head, Position
from controlplane.push.subscription.machine import Subscription
from controlplane.push.subscription.timing import Limits
from controlplane.push.subscription.transfer import ChangeRequest, ChunkRequest, RefsRequest, WantedRequest, written_of
from controlplane.push.subscription.violations import ProtocolViolation

LIMITS = Limits(heartbeat_s=10, hello_timeout_s=10, answer_timeout_s=120, silence_timeout_s=60)


def at(revision: int, *, store_uid: str = "store", digest: int = 7) -> Position:
    return Position(store_uid=store_uid, revision=revision, digest=bytes([digest]) * 32)


def head(revision: int, entry_count: int = 1) -> Head:
    return Head(position=at(revision), entry_count=entry_count)


def hello(
    have: Position | None = None,
    rejected: tuple[Position, ...] = (),
    *,
    takes_changes: bool = False,
    takes_manifests: bool = False,
) -> pb.SyncRequest:
    return pb.SyncRequest(
        hello=pb.Hello(
            data_plane="dp",
            instance_uid="i",
            have=position_to_proto(have) if have else None,
            rejected=[position_to_proto(position) for position in rejected],
            features=[pb.FEATURE_DELTA] * takes_changes + [pb.FEATURE_MANIFEST] * takes_manifests,
        )
    )


def want(position: Position, *digests: bytes) -> pb.SyncRequest:
    return pb.SyncRequest(want=pb.Want(to=position_to_proto(position), digests=digests))


def digest_of(name: str) -> bytes:
    """Of the entry that a test's manifest has under this name."""
    return name.encode().ljust(32)


def refs(*names: str) -> pb.Chunk:
    """A chunk of refs with these names."""
    return pb.Chunk(refs=[snapshot_pb2.EntryRef(name=name, digest=digest_of(name)) for name in names])


def entries(*names: str) -> pb.Chunk:
    """A chunk of entries with these names."""
    return pb.Chunk(entries=[snapshot_pb2.Entry(ref=snapshot_pb2.EntryRef(name=name)) for name in names])


def status(
    target: Position | None = None,
    phase: pb.Phase.ValueType = pb.PHASE_UNSPECIFIED,
    *,
    serving: Position | None = None,
    reason: str = "",
    resources: tuple[status_pb2.ResourceStatus, ...] = (),
) -> pb.SyncRequest:
    return pb.SyncRequest(
        status=pb.Status(
            target=position_to_proto(target) if target else None,
            serving=position_to_proto(serving) if serving else None,
            phase=phase,
            reason=reason,
            resources=resources,
        )
    )


def active(position: Position) -> pb.SyncRequest:
    return status(position, pb.PHASE_ACTIVE, serving=position)


def greeted(revision: int, have: Position | None = None, rejected: tuple[Position, ...] = ()) -> Subscription:
    subscription = Subscription(head=head(revision), limits=LIMITS, now_s=0)
    subscription.receive(hello(have, rejected), 0)
    return subscription


def send_all(subscription: Subscription, now_s: float = 0) -> list[str]:
    """Write until there is nothing to send; returns the kinds of messages."""
    kinds = []
    while (output := subscription.take_output(now_s)) is not None:
        if isinstance(output, ChangeRequest):
            subscription.announce(output, can_send_change=True)
            kinds.append("change")
        elif isinstance(output, ChunkRequest) and output.base is not None and output.index == 2:
            subscription.change_written()
        elif isinstance(output, ChunkRequest):
            entry = snapshot_pb2.Entry(ref=snapshot_pb2.EntryRef(name=f"{output.index:04}"))
            subscription.chunk_written(written_of(pb.Chunk(entries=[entry])))
            kinds.append("chunk")
        elif isinstance(output, RefsRequest):
            number = int(output.after_name or 0) + 1
            subscription.chunk_written(written_of(refs(f"{number:04}")))
            kinds.append("refs")
        elif isinstance(output, WantedRequest):
            subscription.chunk_written(written_of(entries(*output.names)))
            kinds.append("wanted")
        else:
            kinds.append(str(output.WhichOneof("message")))
    return kinds


def refused(subscription: Subscription, request: pb.SyncRequest) -> ProtocolViolation:
    before = (subscription.state, subscription.progress, subscription.head, subscription.hello)
    with pytest.raises(ProtocolViolation) as raised:
        subscription.receive(request, 5)
    assert (subscription.state, subscription.progress, subscription.head, subscription.hello) == before
    assert raised.value.by == "client"
    return raised.value
