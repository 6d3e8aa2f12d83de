"""Both ends of the push protocol wired together without sockets: any interleaving of commits,
deliveries, decisions, disconnects and restarts.
"""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from controlplane.catalog import domain
from controlplane.catalog.convert import position_from_proto
from controlplane.fleet.progress import Progress
from controlplane.push.subscription.machine import Subscription
from controlplane.push.subscription.states import State
from controlplane.push.subscription.timing import Limits
from controlplane.push.subscription.transfer import ChangeRequest, PieceRequest, RefsRequest, WantedRequest, written_of
from dataplane.snapshot.change import Change, changed
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, RawEntry
from dataplane.sync.events import Accepted, Candidate, Diverged, Ended, Identity, Refused, Rejected
from dataplane.sync.subscriber import Subscriber
from tests.raw import POLICY, entry_proto, model, position, raws

LIMITS = Limits()


def catalog(revision: int) -> tuple[RawEntry, ...]:
    """Up to three models; every second one stays the same."""
    return raws(*(model(f"m{number}", number=revision if number % 2 else 1) for number in range(revision % 4)))


def head_of(at: Position, entries: tuple[RawEntry, ...]) -> domain.Head:
    return domain.Head(position=to_server(at), entry_count=len(entries))


def to_server(at: Position) -> domain.Position:
    return domain.Position(store_uid=at.store_uid, revision=at.revision, digest=at.digest)


def cut(base: tuple[RawEntry, ...] | None, entries: tuple[RawEntry, ...], after_name: str) -> pb.Chunk | None:
    """The next two names of a snapshot, or of what differs from `base`; None: there are no more."""
    content, removed = {entry.name: entry for entry in entries}, set[str]()
    if base is not None:
        before = {entry.name: entry for entry in base}
        removed = before.keys() - content.keys()
        content = {name: entry for name, entry in content.items() if before.get(name) != entry}
    names = sorted(name for name in content.keys() | removed if name > after_name)[:2]
    assert names or base is not None, "the snapshot has fewer entries than announced"
    if not names:
        return None
    return pb.Chunk(
        entries=[entry_proto(content[name]) for name in names if name in content],
        removed=[name for name in names if name in removed],
    )


def cut_manifest(request: RefsRequest | WantedRequest, entries: tuple[RawEntry, ...]) -> pb.Chunk:
    """The next two refs of a snapshot, or the next two entries that are wanted."""
    if isinstance(request, RefsRequest):
        after = [entry_proto(entry) for entry in entries if entry.name > request.after_name][:2]
        return pb.Chunk(refs=[entry.ref for entry in after])
    wanted = [entry for entry in entries if entry.name in request.names and entry.name > request.after_name]
    assert wanted, "nothing is wanted"
    return pb.Chunk(entries=[entry_proto(entry) for entry in wanted[:2]])


Commits = dict[int, tuple[Position, tuple[RawEntry, ...]]]


def chunk_for(request: PieceRequest, commits: Commits) -> pb.Chunk | None:
    """What is to be written; None: the change has no more chunks."""
    entries = commits[request.position.revision][1]
    if isinstance(request, RefsRequest | WantedRequest):
        return cut_manifest(request, entries)
    return cut(commits[request.base.revision][1] if request.base else None, entries, request.after_name)


def check_content(candidate: Candidate, commits: Commits, serving: Position | None) -> bool:
    """Check that what has arrived is what was committed. Returns whether it is a change."""
    content, committed = candidate.content, commits[candidate.position.revision][1]
    if not isinstance(content, Change):
        assert content == committed
        return False
    assert content.base == serving
    assert changed(commits[content.base.revision][1], content) == committed
    return True


class SyncProtocol(RuleBasedStateMachine):
    """Messages travel in two queues, as in a stream; a disconnect drops both."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.commits: Commits = {}
        self.doomed: set[int] = set()
        """Revisions that the agent rejects."""
        self.server: Subscription | None = None
        self.to_client: deque[pb.SyncResponse] = deque()
        self.to_server: deque[pb.SyncRequest] = deque()
        self.candidate: Candidate | None = None
        self.known = Progress()
        """What the control plane remembers of the data plane."""
        self.nacked: set[Position] = set()
        """Positions whose rejection the client has stated, on a stream or in a Hello, or will in
        its next."""
        self.resources: dict[str, status_pb2.ResourceStatus] = {}
        self.seen_by_server: dict[str, status_pb2.ResourceStatus] = {}
        self.active_before: Position | None = None
        self.instance = 0
        self.known_instance = ""

    @initialize()
    def start(self) -> None:
        self.commits[0] = (position(catalog(0), 0), catalog(0))
        self._start_agent(None, ())

    def _start_agent(self, serving: Position | None, rejected: tuple[Rejected, ...]) -> None:
        self.instance += 1
        identity = Identity(data_plane="dp", instance_uid=f"instance-{self.instance}")
        self.client = Subscriber(identity, policy=POLICY, serving=serving, rejected=rejected, held=self._held)

    def _held(self) -> tuple[RawEntry, ...]:
        return self.commits[self.client.serving.revision][1] if self.client.serving is not None else ()

    @property
    def head(self) -> domain.Head:
        return head_of(*self.commits[max(self.commits)])

    # -- rules

    @rule(doomed=st.booleans(), number=st.integers(1, 3))
    def commit(self, doomed: bool, number: int) -> None:
        for _ in range(number):
            revision = max(self.commits) + 1
            self.commits[revision] = (position(catalog(revision), revision), catalog(revision))
            if doomed:
                self.doomed.add(revision)
        if self.server is not None:
            self.server.publish(self.head)

    @precondition(lambda self: self.server is None and not self.client.deciding)
    @rule()
    def connect(self) -> None:
        self.server = Subscription(head=self.head, limits=LIMITS, now_s=self.now_s)
        self.client.open()
        self.client.report(self.resources)

    @precondition(lambda self: self.server is not None)
    @rule()
    def disconnect(self) -> None:
        self._close()

    @precondition(lambda self: self.server is not None)
    @rule()
    def server_stops(self) -> None:
        assert self.server is not None
        self.server.end("SHUTTING_DOWN", reconnect_after_s=0.5)

    @precondition(lambda self: self.candidate is None)
    @rule()
    def agent_restarts(self) -> None:
        """The agent reads from disk what it serves and what it has rejected."""
        self._close()
        self._start_agent(self.client.serving, self.client.rejected)

    @rule()
    def control_plane_restarts(self) -> None:
        self._close()
        self.seen_by_server = {}

    def _close(self) -> None:
        self.server = None
        self.to_client.clear()
        self.to_server.clear()
        if self.client.state is not self.client.state.CLOSED:
            self.client.close()

    @precondition(lambda self: self.server is not None)
    @rule(passing_s=st.sampled_from([0.0, 1.0, 11.0]), kept=st.booleans())
    def server_writes(self, passing_s: float, kept: bool) -> None:
        """`kept`: whether the snapshot at which a change begins is kept."""
        self.now_s += passing_s
        server = self.server
        assert server is not None
        if server.overdue(self.now_s):
            self._close()
            return
        output = server.take_output(self.now_s)
        if isinstance(output, ChangeRequest):
            output = server.announce(output, can_send_change=kept)
        if isinstance(output, PieceRequest):
            self._write_chunk(server, output)
        elif output is not None:
            if output.WhichOneof("message") == "intent" and output.intent.mode != pb.Intent.MODE_NONE:
                assert Position.from_proto(output.intent.to) not in self.nacked, "a rejected snapshot is sent again"
                assert position_from_proto(output.intent.to) == self.head.position, "what is sent is not the newest"
            self.to_client.append(output)

    def _write_chunk(self, server: Subscription, request: PieceRequest) -> None:
        chunk = chunk_for(request, self.commits)
        if chunk is None:
            server.change_written()
        else:
            self.to_client.append(pb.SyncResponse(chunk=chunk))
            server.chunk_written(written_of(chunk))

    @precondition(lambda self: self.to_client and self.client.state is not self.client.state.CLOSED)
    @rule()
    def client_reads(self) -> None:
        event = self.client.receive(self.to_client.popleft())
        if isinstance(event, Candidate):
            assert self.candidate is None, "two snapshots are under way"
            self.candidate = event
        elif isinstance(event, Refused):
            raise AssertionError(f"a good snapshot was refused: {event.rejected}")
        elif isinstance(event, Ended):
            self._close()

    @precondition(lambda self: self.candidate is not None)
    @rule(errors=st.booleans(), damaged=st.booleans())
    def agent_decides(self, errors: bool, damaged: bool) -> None:
        """`damaged`: what the agent holds is not what it should be; a change does not come out."""
        candidate, self.candidate = self.candidate, None
        assert candidate is not None
        if check_content(candidate, self.commits, self.client.serving) and damaged:
            assert self.client.decided(Diverged()) is None
            return
        if candidate.position.revision in self.doomed:
            rejected = self.client.decided(Rejection(reason="DOOMED", message="the test rejects it"))
            assert rejected is not None
        else:
            self.client.decided(Accepted(with_errors=errors))

    @precondition(lambda self: self.client.state is not self.client.state.CLOSED)
    @rule()
    def client_writes(self) -> None:
        message = self.client.take_message()
        if message is not None:
            self.to_server.append(message)

    @precondition(lambda self: self.server is not None and self.to_server)
    @rule()
    def server_reads(self) -> None:
        server = self.server
        assert server is not None
        request = self.to_server.popleft()
        if server.state is State.CLOSED:
            return
        change = server.receive(request, self.now_s)
        if request.WhichOneof("message") == "hello":
            server.recall(self.known, same_instance=self.known_instance == request.hello.instance_uid)
            self.known_instance = request.hello.instance_uid
            self.nacked |= {Position.from_proto(position) for position in request.hello.rejected}
        elif request.HasField("status") and request.status.phase == pb.PHASE_REJECTED:
            self.nacked.add(Position.from_proto(request.status.target))
        if change.replace:
            self.seen_by_server = {}
        self.seen_by_server.update((status.name, status) for status in change.updated)
        for name in change.removed:
            del self.seen_by_server[name]
        self.known = server.progress

    @rule(steps=st.integers(5, 40))
    def everything_flows(self, steps: int) -> None:
        for _ in range(steps):
            self._step()

    @rule(steps=st.integers(5, 20))
    def the_client_only_reads(self, steps: int) -> None:
        for _ in range(steps):
            if self.server is not None:
                self.server_writes(passing_s=0.0, kept=True)
            if self.to_client and self.server is not None:
                self.client_reads()

    @rule(name=st.sampled_from("abc"), state=st.sampled_from([1, 2, 5, None]))
    def report(self, name: str, state: int | None) -> None:
        if state is None:
            self.resources.pop(name, None)
        else:
            self.resources[name] = status_pb2.ResourceStatus(name=name, state=status_pb2.ResourceState.ValueType(state))
        self.client.report(self.resources)

    # -- invariants

    @invariant()
    def active_is_a_committed_snapshot(self) -> None:
        serving = self.client.serving if self.commits else None
        if serving is not None:
            assert self.commits[serving.revision][0] == serving
            assert serving.revision not in self.doomed

    @invariant()
    def active_never_moves_backwards(self) -> None:
        serving = self.client.serving if self.commits else None
        before = self.active_before
        assert before is None or (serving is not None and serving.revision >= before.revision)
        self.active_before = serving

    @invariant()
    def nothing_queues_in_the_machines(self) -> None:
        if self.commits:
            assert len(self.client._phase_reports) <= 4
            assert len(self.client.rejected) <= 16

    def teardown(self) -> None:
        """Without further events, both ends settle on the newest snapshot that is not rejected.

        They also agree on the statuses of resources."""
        if not self.commits:
            return
        for _ in range(500):
            if self.server is None and self.candidate is None:
                self.connect()
            self._step()
        head = self.commits[max(self.commits)][0]
        assert self.server is not None
        assert self.server.settled
        if head.revision in self.doomed:
            assert self.server.rejects(to_server(head))
        else:
            assert self.client.serving == head
        expected = to_server(self.client.serving) if self.client.serving else None
        assert self.server.progress.serving == expected
        assert self.seen_by_server == self.resources
        assert self.client.take_message() is None

    def _step(self) -> None:
        if self.candidate is not None:
            self.agent_decides(errors=False, damaged=False)
        if self.server is not None:
            self.server_writes(passing_s=0.0, kept=True)
        if self.to_client and self.server is not None:
            self.client_reads()
        if self.server is not None:
            self.client_writes()
        if self.to_server and self.server is not None:
            self.server_reads()


TestSyncProtocol = SyncProtocol.TestCase
TestSyncProtocol.settings = settings(max_examples=400, stateful_step_count=60, deadline=None)
