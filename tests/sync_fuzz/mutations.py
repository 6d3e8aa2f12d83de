"""Damages messages of the Sync stream. The same seed does the same damage."""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError

from broadsheet.v1 import snapshot_service_pb2 as pb
from tests.fuzz import Requests

T = TypeVar("T")

REPLAYED_MAX = 64
"""Earlier messages that may come again."""


class Mutations:
    """What may come in place of a message, as bytes."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._made_up = Requests(seed, Path("/nowhere"))
        self._earlier: deque[bytes] = deque(maxlen=REPLAYED_MAX)

    def request(self, request: pb.SyncRequest) -> bytes:
        """In place of a message of a data plane."""
        if self._random.random() < 0.2:
            return self._made_up.message(pb.SyncRequest.DESCRIPTOR).SerializePartialToString()
        if request.HasField("want") and self._random.random() < 0.4:
            digests = [*request.want.digests, self._random.randbytes(32)]
            request = pb.SyncRequest(want=pb.Want(to=request.want.to, digests=self._sample(digests)))
        return self._damaged(request.SerializeToString())

    def response(self, response: pb.SyncResponse) -> bytes:
        """In place of a message of the control plane."""
        if self._random.random() < 0.2:
            return self._made_up.message(pb.SyncResponse.DESCRIPTOR).SerializePartialToString()
        if self._random.random() < 0.3:
            response = self._rearranged(response)
        return self._damaged(response.SerializeToString())

    def in_batch(self, content: bytes) -> bytes:
        """The message alone, or in a batch with earlier ones."""
        if self._random.random() < 0.8:
            return content
        messages = [*self._sample(list(self._earlier)[-3:]), content]
        return pb.SyncResponse(batch=pb.Batch(messages=messages)).SerializeToString()

    def _rearranged(self, response: pb.SyncResponse) -> pb.SyncResponse:
        """Other entries or refs in a chunk, another mode, or the next revision."""
        changed = pb.SyncResponse()
        changed.CopyFrom(response)
        if changed.HasField("chunk"):
            for part in (changed.chunk.entries, changed.chunk.refs, changed.chunk.removed):
                items = self._sample(list(part))
                del part[:]
                part.extend(items)  # type: ignore[arg-type]  # the items are of this part
        elif changed.HasField("intent"):
            changed.intent.mode = self._random.choice(pb.Intent.Mode.values())
            changed.intent.entry_count += self._random.choice([-1, 0, 1, 2**40])
        elif changed.HasField("commit"):
            changed.commit.to.revision += 1
        return changed

    def _sample(self, items: list[T]) -> list[T]:
        return [self._random.choice(items) for _ in range(self._random.randint(0, len(items)))] if items else []

    def _damaged(self, content: bytes) -> bytes:
        kind = self._random.random()
        if kind < 0.3 and self._earlier:
            content = self._random.choice(self._earlier)
        elif kind < 0.8:
            content = self._made_up.mutated(content)
        self._earlier.append(content)
        return content


def parsed_request(content: bytes) -> pb.SyncRequest | None:
    """None: the bytes are no message, and gRPC or the interceptor ends the stream."""
    try:
        return pb.SyncRequest.FromString(content)
    except DecodeError:
        return None


def parsed_response(content: bytes) -> pb.SyncResponse | None:
    """None: the bytes are no message, and gRPC ends the stream."""
    try:
        return pb.SyncResponse.FromString(content)
    except DecodeError:
        return None
