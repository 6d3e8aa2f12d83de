"""How far the client of a stream has been sent revocations, and how far it applies them. Pure.

Revocations go beside snapshots: also while one is being sent, and whatever the client has rejected.
Nothing queues for a stream. It has a pointer to the newest revocation, and one to the last that was
sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from broadsheet.v1 import snapshot_service_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """The shell is to read these revocations, call `sent`, and write them."""

    after_sequence: int
    newest_sequence: int
    """There are at least as many."""


class RevocationPointers:
    """The revocations of one stream.

    Invariant: `applied` is at most what the client has been sent, or said in its Hello that it has.
    """

    def __init__(self, *, newest_sequence: int) -> None:
        """
        Args:
            newest_sequence: The newest revocation of the store. 0: there is none.
        """
        self.newest = newest_sequence
        self.applied = 0
        """The newest revocation that the client has said it applies."""
        self._sent: int | None = None
        """None: the client takes none, or has not said Hello."""

    def publish(self, sequence: int) -> bool:
        """Point to a newer revocation, if it is newer. Returns whether it is."""
        before, self.newest = self.newest, max(self.newest, sequence)
        return self.newest > before

    def receive(self, request: pb.SyncRequest, *, store_uid: str) -> None:
        """Take a legal message of the client.

        Args:
            request: The message.
            store_uid: The store that the revocations belong to.
        """
        if request.HasField("hello"):
            self._begin(request.hello, store_uid)
        elif request.HasField("status") and self._sent is not None:
            self.applied = max(self.applied, min(request.status.revocations_sequence, self._sent))

    def _begin(self, hello: pb.Hello, store_uid: str) -> None:
        if pb.FEATURE_REVOCATIONS not in hello.features:
            return
        # A sequence that this store does not have yet is that of another history: this process is
        # behind, or the store went back without a new uid. Sent twice, a revocation does no harm.
        is_known = hello.revocations_store_uid == store_uid and hello.revocations_sequence <= self.newest
        self._sent = hello.revocations_sequence if is_known else 0

    @property
    def is_behind(self) -> bool:
        """Whether the client is yet to say that it applies the newest revocation."""
        return self.applied < self.newest

    @property
    def next_batch(self) -> BatchRequest | None:
        """What to send next; None: nothing."""
        if self._sent is None or self._sent >= self.newest:
            return None
        return BatchRequest(after_sequence=self._sent, newest_sequence=self.newest)

    def sent(self, last_sequence: int) -> None:
        """A batch that ends with this revocation is about to be written."""
        self._sent = last_sequence
