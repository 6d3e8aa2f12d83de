"""Both ends of revocations wired together without sockets: any interleaving of revocations,
deliveries, disconnects, restarts, damaged disks, lagging control planes and restored backups.
"""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.push.subscription.revocations import RevocationPointers
from dataplane.snapshot.revocations.batch import Gap, read_batch
from dataplane.snapshot.revocations.revoked_keys import NOTHING_REVOKED, RevokedKeys
from dataplane.sync.revocations.reports import RevocationReports
from tests.revoking import batch

BATCH_MAX = 3


class RevocationProtocol(RuleBasedStateMachine):
    """Messages travel in two queues, as in a stream; a disconnect drops both."""

    def __init__(self) -> None:
        super().__init__()
        self.stores = 1
        self.revoked: list[str] = []
        """Uids that the current store has revoked, in order."""
        self.made = 0
        self.server: RevocationPointers | None = None
        self.to_client: deque[pb.SyncResponse] = deque()
        self.to_server: deque[pb.SyncRequest] = deque()
        self.held = RevokedKeys()
        self.reports = RevocationReports()
        self.taken: set[str] = set()
        """What the data plane has ever applied."""

    @property
    def store_uid(self) -> str:
        return f"store-{self.stores}"

    # -- the control plane -------------------------------------------------------------------------

    @rule(tell=st.booleans())
    def revoke(self, tell: bool) -> None:
        """Another control plane may do it, and this one learns of it later."""
        self.made += 1
        self.revoked.append(f"key-{self.made}")
        if tell and self.server is not None:
            self.server.publish(len(self.revoked))

    @rule(kept=st.integers(0, 5))
    def restore_a_backup(self, kept: int) -> None:
        self.disconnect()
        self.stores += 1
        del self.revoked[kept:]

    @precondition(lambda self: self.server is not None)
    @rule()
    def server_sends(self) -> None:
        assert self.server is not None
        request = self.server.next_batch
        if request is not None:
            uids = self.revoked[request.after_sequence : request.after_sequence + BATCH_MAX]
            assert uids, "a stream asks only for what there is"
            self.server.sent(request.after_sequence + len(uids))
            sent = batch(*uids, after=request.after_sequence, store_uid=self.store_uid)
            self.to_client.append(pb.SyncResponse(revocations=sent))

    @precondition(lambda self: self.to_server)
    @rule()
    def server_receives(self) -> None:
        assert self.server is not None
        self.server.receive(self.to_server.popleft(), store_uid=self.store_uid)

    # -- the stream --------------------------------------------------------------------------------

    @precondition(lambda self: self.server is None)
    @rule(behind=st.integers(0, 3))
    def connect(self, behind: int) -> None:
        """To a control plane that may be behind with what another one has committed."""
        self.server = RevocationPointers(newest_sequence=max(0, len(self.revoked) - behind))
        self.reports.open()
        self.to_server.append(self.reports.fill(pb.SyncRequest(hello=pb.Hello())))
        head = snapshot_pb2.Position(store_uid=self.store_uid)
        self.to_client.append(pb.SyncResponse(heartbeat=pb.Heartbeat(head=head)))

    @rule()
    def disconnect(self) -> None:
        self.server = None
        self.to_client.clear()
        self.to_server.clear()

    # -- the data plane ----------------------------------------------------------------------------

    @precondition(lambda self: self.to_client)
    @rule()
    def client_receives(self) -> None:
        revocations = self.reports.receive(self.to_client.popleft())
        if revocations is None:
            return
        try:
            self.held.take(read_batch(revocations.payload))
        except Gap:
            self.disconnect()
            return
        self.taken |= self.held.uids
        self.reports.kept = self.held.position

    @rule()
    def ingress_applies(self) -> None:
        self.reports.apply(self.held.position, "")

    @precondition(lambda self: self.server is not None)
    @rule()
    def client_reports(self) -> None:
        message = self.reports.take_message(None, with_errors=False)
        if message is not None:
            self.to_server.append(message)

    @rule(damaged=st.booleans())
    def restart_the_agent(self, damaged: bool) -> None:
        self.disconnect()
        if damaged:
            self.held.position = NOTHING_REVOKED
        self.reports = RevocationReports()
        self.reports.kept = self.held.position

    # -- what always holds -------------------------------------------------------------------------

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert self.held.uids == self.taken

    @invariant()
    def what_counts_as_applied_is_applied(self) -> None:
        if self.server is not None:
            assert set(self.revoked[: self.server.applied]) <= self.held.uids

    def teardown(self) -> None:
        """Once faults stop, the data plane has all, and the control plane knows."""
        for _ in range(3):
            if self.server is None:
                self.connect(0)
            for _ in range(2 * len(self.revoked) + 10):
                self.go_on()
        assert set(self.revoked) <= self.held.uids
        assert self.server is not None
        assert self.server.applied == len(self.revoked)

    def go_on(self) -> None:
        """Whatever is due, on the stream that is open, if there is one."""
        if self.server is not None:
            self.server.publish(len(self.revoked))
            self.server_sends()
        while self.to_client:
            self.client_receives()
        self.ingress_applies()
        if self.server is not None:
            self.client_reports()
        while self.to_server:
            self.server_receives()


TestRevocationProtocol = RevocationProtocol.TestCase
TestRevocationProtocol.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
