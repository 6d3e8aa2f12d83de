"""Batches of messages, taken apart."""

from __future__ import annotations

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.sync.stream.batches import messages_of
from dataplane.sync.transitions import ProtocolViolation
from protocol.snapshot_limits import BATCH_BYTES_MAX
from tests.unit.dataplane.sync.test_subscriber import opened

HEARTBEAT = pb.SyncResponse(heartbeat=pb.Heartbeat())
COMMIT = pb.SyncResponse(commit=pb.Commit())


def batch(*messages: bytes) -> pb.SyncResponse:
    return pb.SyncResponse(batch=pb.Batch(messages=messages))


def test_the_messages_of_a_batch_come_in_order() -> None:
    messages = [HEARTBEAT, COMMIT, HEARTBEAT]
    assert list(messages_of(batch(*(message.SerializeToString() for message in messages)))) == messages


def test_a_message_that_is_no_batch_is_itself() -> None:
    assert list(messages_of(COMMIT)) == [COMMIT]


@pytest.mark.parametrize("content", [[b"\xff"], [bytes([0x1A, 0])] * (BATCH_BYTES_MAX // 2 + 1)], ids=["torn", "large"])
def test_a_hostile_batch_is_a_violation(content: list[bytes]) -> None:
    with pytest.raises(ProtocolViolation):
        list(messages_of(batch(*content)))


def test_a_batch_in_a_batch_is_a_violation() -> None:
    (inner,) = messages_of(batch(batch(b"").SerializeToString()))
    with pytest.raises(ProtocolViolation):
        opened().receive(inner)
