"""What a data plane says of revocations on a Sync stream. Pure.

It goes beside the state machine of snapshots: Hello says what is kept, each Status says what is
applied.
"""

from __future__ import annotations

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.revocations.revoked_keys import NOTHING_REVOKED, RevocationsPosition
from dataplane.snapshot.snapshot import Position
from dataplane.sync.resource_report import TEXT_CHARACTERS_MAX
from protocol.validation import plain_text


class RevocationReports:
    """The revocations of one data plane, over all its streams."""

    def __init__(self) -> None:
        self.kept = NOTHING_REVOKED
        """How far they are known. The next Hello says it."""
        self._applied = NOTHING_REVOKED
        self._warning = ""
        self._store_uid = ""
        """Of the control plane of the open stream; empty: not known yet."""
        self._applied_due = False
        self._warning_due = False

    def open(self) -> None:
        """A stream begins."""
        self._store_uid, self._applied_due, self._warning_due = "", False, bool(self._warning)

    def receive(self, response: pb.SyncResponse) -> pb.Revocations | None:
        """Take a message of the control plane. Returns the revocations in it, if it has any."""
        kind = response.WhichOneof("message")
        if kind == "revocations":
            return response.revocations
        if not self._store_uid and kind in ("intent", "heartbeat"):
            position = response.intent.to if kind == "intent" else response.heartbeat.head
            self._store_uid = position.store_uid
            self._applied_due = self._applied_due or self._reported > 0
        return None

    def apply(self, position: RevocationsPosition, warning: str) -> None:
        """No request is let in any more by a key that was revoked up to here.

        Args:
            position: What every ingress replica applies.
            warning: What operators must know, shown with the snapshot in service; empty: nothing.
        """
        self._warning_due = self._warning_due or warning != self._warning
        self._applied, self._warning, self._applied_due = position, warning, True

    def fill(self, request: pb.SyncRequest) -> pb.SyncRequest:
        """Add to a message what it has to say of revocations."""
        if request.HasField("hello"):
            request.hello.features.append(pb.FEATURE_REVOCATIONS)
            request.hello.revocations_sequence = self.kept.sequence
            request.hello.revocations_store_uid = self.kept.store_uid
        elif request.HasField("status"):
            request.status.revocations_sequence = self._reported
            self._applied_due = False
        return request

    def take_message(self, serving: Position | None, *, with_errors: bool) -> pb.SyncRequest | None:
        """A message that says only this, when there is no other to write; None: nothing is due.

        Args:
            serving: The snapshot in service, as the last message said.
            with_errors: Whether entries of it are quarantined.
        """
        if not (self._applied_due or (self._warning_due and serving is not None)):
            return None
        status = pb.Status()
        if serving is not None:
            status.serving.CopyFrom(serving.to_proto())
            if self._warning_due:
                self._warning_due = False
                status.target.CopyFrom(status.serving)
                status.phase = pb.PHASE_ACTIVE_WITH_ERRORS if with_errors else pb.PHASE_ACTIVE
                status.message = plain_text(self._warning[:TEXT_CHARACTERS_MAX])
        return self.fill(pb.SyncRequest(status=status))

    @property
    def _reported(self) -> int:
        # The number of another store would be taken for one of this store.
        return self._applied.sequence if self._applied.store_uid == self._store_uid else 0
