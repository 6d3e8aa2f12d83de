"""A Sync stream as the fan-out sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import grpc.aio

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.domain import Head, Identity
from controlplane.fleet.data_plane import Traffic
from controlplane.fleet.progress import Progress
from controlplane.principal import ANONYMOUS, Principal
from controlplane.push.subscription.goodbyes import REMOVED, SUPERSEDED
from controlplane.push.subscription.machine import Subscription
from controlplane.push.subscription.revocations import RevocationPointers
from controlplane.push.wake import Wake

SUPERSEDED_RECONNECT_AFTER_S = 30.0
"""Asked of a client whose place another stream has taken: two data planes with the same id should
not supersede each other all the time. Seconds."""

REMOVED_RECONNECT_AFTER_S = 30.0
"""Asked of a data plane that an operator has removed while it was connected. Seconds."""

Context = grpc.aio.ServicerContext[pb.SyncRequest, bytes]
"""It takes serialised messages: those that many streams get are serialised once."""

Identify = Callable[[Principal, str], Identity]
"""How sure it is that a caller is the data plane of this id; refuses with PermissionDenied."""


class Stream:
    """A state machine, and the event that makes its writer look at it."""

    def __init__(
        self,
        subscription: Subscription,
        *,
        revocations_newest: int = 0,
        call: Context | None = None,
        caller: Principal = ANONYMOUS,
    ) -> None:
        """
        Args:
            subscription: Of snapshots.
            revocations_newest: The newest revocation of the store, by sequence. 0: none.
            call: The RPC, which has the credentials; None: they are not looked at again.
            caller: Who makes it.
        """
        self.subscription = subscription
        self.revocations = RevocationPointers(newest_sequence=revocations_newest)
        """They go beside snapshots."""
        self.call = call
        self.caller = caller
        self.wake = Wake()
        self.identity = Identity.SHARED
        """How sure it is whose stream it is. Set before it is attached."""
        self.is_ending = False
        """Whether it was told to say Goodbye."""
        self.given_up = False
        """It was to end, and its client did not read."""
        self.traffic: Traffic | None = None
        """What the data plane has reported of its traffic; None: nothing."""
        self.statuses_dropped = 0
        """Statuses of names that are not in the catalog."""

    @property
    def hello(self) -> pb.Hello:
        """The first message. A stream is attached once it has come."""
        hello = self.subscription.hello
        assert hello is not None, "a stream is attached after its Hello"
        return hello

    @property
    def data_plane_id(self) -> str:
        """Whose stream it is; empty before its Hello."""
        hello = self.subscription.hello
        return hello.data_plane if hello is not None else ""

    @property
    def settled_revision(self) -> int | None:
        """The head, if the data plane serves or has rejected it; else None."""
        return self.subscription.settled_revision

    def note_traffic(self, request: pb.SyncRequest) -> None:
        """Take what a message that was received says of the traffic."""
        if request.status.HasField("traffic"):
            self.traffic = Traffic(request.status.traffic.requests, request.status.traffic.failures)

    def publish(self, head: Head, *, newest_revision: int) -> None:
        """Point it to a newer snapshot, if it is newer.

        Args:
            head: The newest that the data plane may have.
            newest_revision: Of the newest snapshot that there is.
        """
        if self.subscription.publish(head, newest_revision=newest_revision):
            self.wake.set()

    def publish_revocations(self, sequence: int) -> None:
        """Point it to a newer revocation, whatever it does with snapshots."""
        if self.revocations.publish(sequence):
            self.wake.set()

    @property
    def progress(self) -> Progress:
        """What the data plane has reported on it."""
        return replace(self.subscription.progress, revocations_sequence=self.revocations.applied)

    def announce_again(self) -> None:
        """Announce the head once more: its signatures have changed."""
        self.subscription.announce_again()
        self.wake.set()

    def supersede(self) -> None:
        """End it: a newer stream of the same data plane has taken its place."""
        self.end(SUPERSEDED, reconnect_after_s=SUPERSEDED_RECONNECT_AFTER_S)

    def dismiss(self) -> None:
        """End it: an operator has removed the data plane."""
        self.end(REMOVED, reconnect_after_s=REMOVED_RECONNECT_AFTER_S)

    def end(self, reason: str, *, reconnect_after_s: float) -> None:
        """Say Goodbye next."""
        self.is_ending = True
        self.subscription.end(reason, reconnect_after_s=reconnect_after_s)
        self.wake.set()
