"""Takes batches of messages apart. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.sync.transitions import ProtocolViolation
from protocol.snapshot_limits import BATCH_BYTES_MAX


def messages_of(response: pb.SyncResponse) -> Iterator[pb.SyncResponse]:
    """The messages in a batch, or the message itself.

    Raises:
        ProtocolViolation: A batch is too large, or holds no message. The messages before it are
            returned first.
    """
    if not response.HasField("batch"):
        yield response
        return
    size = sum(map(len, response.batch.messages))
    if size > BATCH_BYTES_MAX:
        raise ProtocolViolation(f"a batch has {size} bytes, allowed are {BATCH_BYTES_MAX}")
    for content in response.batch.messages:
        try:
            yield pb.SyncResponse.FromString(content)
        except DecodeError:
            raise ProtocolViolation("a batch holds something that is no message") from None
