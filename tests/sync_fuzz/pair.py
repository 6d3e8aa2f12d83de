"""A control plane's and a data plane's end of a stream, wired together without sockets."""

from __future__ import annotations

import random

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog import domain
from controlplane.catalog.convert import position_from_proto
from controlplane.push.subscription.machine import Subscription
from controlplane.push.subscription.states import State
from controlplane.push.subscription.timing import Limits
from controlplane.push.subscription.transfer import ChangeRequest, PieceRequest, written_of
from controlplane.push.subscription.violations import ProtocolViolation as ClientViolation
from dataplane.snapshot.accept import accept
from dataplane.snapshot.change import Change, changed
from dataplane.snapshot.rejection import ROOT_DIGEST_MISMATCH, Rejection
from dataplane.snapshot.snapshot import RawEntry, Snapshot
from dataplane.sync.events import Accepted, Candidate, Diverged, Ended, Identity
from dataplane.sync.stream.batches import messages_of
from dataplane.sync.subscriber import Subscriber
from dataplane.sync.transitions import ProtocolViolation as ServerViolation
from tests.raw import POLICY, model, position, raws
from tests.sync_fuzz.mutations import Mutations, parsed_request, parsed_response
from tests.unit.test_sync_protocol import Commits, chunk_for, head_of

_STEPS_TO_SETTLE = 200


def catalog(revision: int) -> tuple[RawEntry, ...]:
    """Some of eight models; each is another one after a while."""
    return raws(
        *(model(f"m{number}", number=1 + revision // (number + 1)) for number in range(8) if revision % 9 != number)
    )


class Pair:
    """Two machines, and what was committed. Violations end a stream, and another one begins."""

    def __init__(self, seed: int, *, damaged_share: float = 0.3) -> None:
        """
        Args:
            seed: Of all that happens.
            damaged_share: Share of the messages that are damaged.
        """
        self._random = random.Random(seed)
        self._mutations = Mutations(seed)
        self._damaged_share = damaged_share
        self.requests = 0
        """Damaged messages to the control plane."""
        self.responses = 0
        """Damaged messages to the data plane."""
        self.activated = 0
        self.violations = 0
        self._commits: Commits = {0: (position(catalog(0), 0), catalog(0))}
        self._contents = {self._commits[0][0].digest: catalog(0)}
        self._snapshot: Snapshot | None = None
        self._instances = 0
        self._start_agent()
        self._connect()

    def _start_agent(self) -> None:
        self._instances += 1
        self._client = Subscriber(
            Identity(data_plane="dp", instance_uid=f"i{self._instances}"),
            policy=POLICY,
            serving=self._snapshot.position if self._snapshot else None,
            held=lambda: self._snapshot.entries if self._snapshot else (),
        )

    def _connect(self) -> None:
        self._server = Subscription(head=self._head, limits=Limits(), now_s=0)
        self._client.open()

    def _reconnect(self) -> None:
        self._client.close()
        if self._random.random() < 0.1:
            self._start_agent()
        self._connect()

    @property
    def _head(self) -> domain.Head:
        return head_of(*self._commits[max(self._commits)])

    def _commit(self) -> None:
        revision = max(self._commits) + 1
        entries = catalog(revision)
        self._commits[revision] = (position(entries, revision), entries)
        self._contents[self._commits[revision][0].digest] = entries
        self._server.publish(self._head)

    def step(self) -> None:
        """One message in each direction, and a commit now and then."""
        if self._random.random() < 0.1:
            self._commit()
        self._to_server()
        self._to_client()

    def settle(self) -> None:
        """Nothing is damaged any more: the data plane comes to serve the next commit."""
        self._damaged_share = 0
        self._reconnect()
        self._commit()
        for _ in range(_STEPS_TO_SETTLE):
            self._to_server()
            self._to_client()
        newest = self._commits[max(self._commits)][0]
        assert self._snapshot is not None, "nothing came into service"
        assert self._snapshot.position == newest, f"{self._snapshot.position} serves, and not {newest}"
        assert self._server.settled, "the control plane does not know it"

    # -- to the control plane ----------------------------------------------------------------------

    def _to_server(self) -> None:
        message = self._client.take_message()
        if message is None:
            return
        if self._random.random() < self._damaged_share:
            self.requests += 1
            damaged = parsed_request(self._mutations.request(message))
            if damaged is None:
                self._reconnect()
                return
            message = damaged
        before = self._of_server()
        try:
            self._server.receive(message, 0)
        except ClientViolation:
            self.violations += 1
            assert self._of_server() == before, f"a refused message has changed something: {message}"
            self._reconnect()
            return
        serving, hello = self._server.progress.serving, self._server.hello
        if serving is not None and hello is not None and serving != position_from_proto(hello.have):
            assert serving in {head_of(*commit).position for commit in self._commits.values()}, "never committed"

    def _of_server(self) -> tuple[object, ...]:
        server = self._server
        return (server.state, server.progress, server.head, server.hello, server.oldest_in_use)

    # -- to the data plane -------------------------------------------------------------------------

    def _to_client(self) -> None:
        output = self._server.take_output(0)
        if isinstance(output, ChangeRequest):
            kept = output.base in {head_of(*commit).position for commit in self._commits.values()}
            output = self._server.announce(output, can_send_change=kept and self._random.random() < 0.7)
        if isinstance(output, PieceRequest):
            output = self._piece(output)
        if output is None or self._server.state is State.CLOSED:
            return
        response: pb.SyncResponse | None = output
        if self._random.random() < self._damaged_share:
            self.responses += 1
            response = parsed_response(self._mutations.in_batch(self._mutations.response(output)))
        if response is None or not self._receive(response):
            self._reconnect()

    def _piece(self, request: PieceRequest) -> pb.SyncResponse | None:
        chunk = chunk_for(request, self._commits)
        if chunk is None:
            self._server.change_written()
            return None
        self._server.chunk_written(written_of(chunk))
        return pb.SyncResponse(chunk=chunk)

    def _receive(self, response: pb.SyncResponse) -> bool:
        """Whether the stream goes on."""
        try:
            for message in messages_of(response):
                before = self._of_client()
                try:
                    event = self._client.receive(message)
                except ServerViolation:
                    assert self._of_client() == before, f"a refused message has changed something: {message}"
                    raise
                if isinstance(event, Ended):
                    return False
                if isinstance(event, Candidate):
                    self._client.decided(self._decide(event))
        except ServerViolation:
            self.violations += 1
            return False
        return True

    def _of_client(self) -> tuple[object, ...]:
        client = self._client
        return (client.state, client.serving, client.rejected, client.deciding, client.head)

    def _decide(self, candidate: Candidate) -> Accepted | Rejection | Diverged:
        """As the agent does."""
        held, content = self._snapshot, candidate.content
        if isinstance(content, Change):
            assert held is not None, "a change needs a beginning"
            assert content.base == held.position, "a change begins at the snapshot in service"
            entries = changed(held.entries, content)
        else:
            entries = content
        outcome = accept(candidate.position, entries, held=held, policy=POLICY)
        if isinstance(outcome, Rejection):
            is_wrong = isinstance(content, Change) and outcome.reason == ROOT_DIGEST_MISMATCH
            return Diverged() if is_wrong else outcome
        assert outcome.entries == self._contents.get(outcome.position.digest), "what was never committed is active"
        self._snapshot = outcome
        self.activated += 1
        return Accepted(with_errors=False)
