"""What must hold after every step, whatever happens. `Checker` raises `Violation`.

It compares what processes hold with what was committed. It keeps its own account of what may be
lost: it does not ask the code under test.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.fleet.progress import Progress
from controlplane.push.subscription.violations import ProtocolViolation as ClientViolation
from dataplane.snapshot.change import Change
from dataplane.snapshot.rejection import BASE_MODEL_MISSING, SNAPSHOT_TOO_LARGE, STORE_UID_MISMATCH, Rejection
from dataplane.snapshot.snapshot import Position, Snapshot
from dataplane.sync.events import Accepted, Candidate, Rejected
from dataplane.sync.probation import PROBATION_S
from dataplane.sync.rejections import REJECTED_MAX
from dataplane.sync.stored.booting import CRASHES_MAX
from dataplane.sync.transitions import ProtocolViolation as ServerViolation
from protocol.signing.signatures import KEY_NOT_TRUSTED
from tests.simulation.parts.agent import Agent, Outcome
from tests.simulation.parts.data_plane import DataPlane
from tests.simulation.parts.server_stream import ServerStream
from tests.simulation.parts.signatures import is_vouched_for
from tests.simulation.parts.store import Committed, Store
from tests.simulation.parts.waves import WavesTable
from tests.simulation.rollout_invariants import CANARY_ID, RolloutChecker, check_given
from tests.simulation.trace import Trace, shown
from tests.simulation.violation import Violation
from tests.simulation.virtual.clock import Clock
from tests.simulation.virtual.environment import SETTLE_S
from tests.simulation.virtual.network import WINDOW_MESSAGES

PHASE_REPORTS_MAX = 4
PROVEN_S = PROBATION_S + SETTLE_S + 1.0
"""After so long in service a snapshot is proven on disk."""
_ACTIVE = (pb.PHASE_ACTIVE, pb.PHASE_ACTIVE_WITH_ERRORS)


@dataclass(slots=True)
class Account:
    """What the checker knows of one data plane."""

    acknowledged: Position | None = None
    """The newest that its agent has said to be in service."""
    durable: Position | None = None
    """The newest that it said so of without a warning: it is on disk."""
    disk_damaged: bool = False
    """Nothing that is written is sure to be found, until an agent boots and looks at all."""
    everywhere: set[Position] = field(default_factory=set)
    """What was in service at every live ingress replica."""
    vouched: set[Position] = field(default_factory=set)
    """What the trusted key has signed, of all that was announced to it."""
    forged: set[Position] = field(default_factory=set)
    """What was announced last with another key."""
    committed: set[Position] = field(default_factory=set)
    """Whose Commit has arrived at the agent that runs."""
    held: dict[str, Snapshot] = field(default_factory=dict)
    """What each of its processes holds, as it was checked last."""
    first_s: dict[Position, float] = field(default_factory=dict)
    """Since when the agent that booted last holds it, or held it."""
    proven: set[Position] = field(default_factory=set)
    crashes: dict[Position, int] = field(default_factory=lambda: defaultdict(int))
    """How often the data plane crashed while it was held and not proven."""


class Checker:
    """Is told what happens, and looks at what processes hold."""

    def __init__(self, clock: Clock, trace: Trace) -> None:
        self.stores: dict[str, Store] = {}
        self.read_damage = False
        """Whether the database has answered wrongly: changes may not come out."""
        self.duplicates = False
        """Whether a message has arrived twice: the other end may take offence."""
        self._clock = clock
        self._trace = trace
        self._accounts: dict[str, Account] = defaultdict(Account)
        self._rollouts = RolloutChecker(trace)
        self._rejected: dict[str, dict[Position, None]] = defaultdict(dict)
        """By instance uid."""

    # -- what is held ------------------------------------------------------------------------------

    def stepped(self, plane: DataPlane) -> None:
        """A process of a data plane has done something."""
        account = self._accounts[plane.data_plane_id]
        agent = plane.agent
        if agent is not None and agent.subscriber is not None:
            if agent.keeper.snapshot is not None:
                self._hold(plane, account, agent.instance_uid, agent.keeper.snapshot)
            self._check_memory(agent)
        for replica in plane.replicas:
            if replica.snapshot is not None:
                self._hold(plane, account, replica.replica_id, replica.snapshot)
        self._note_everywhere(plane, account)

    def _hold(self, plane: DataPlane, account: Account, holder: str, snapshot: Snapshot) -> None:
        before = account.held.get(holder)
        if before is snapshot:
            return
        account.held[holder] = snapshot
        position = snapshot.position
        self._trace.add(holder, "decides by {}", position)
        committed = self._committed(position)
        _check_content(holder, snapshot, committed)
        if before is not None:
            self._check_order(plane, holder, position, before.position)
        self._check_order(plane, holder, position, account.acknowledged)
        if plane.agent is not None and holder == plane.agent.instance_uid:
            account.first_s = {position: self._clock.now_s}
            if plane.verifies and position not in account.vouched:
                raise Violation("a signature is verified before activation", f"{holder} holds {shown(position)}")
            booted = before is None
            if not booted and position not in account.committed:
                raise Violation("nothing is applied before Commit", f"{holder} holds {shown(position)}")

    def _committed(self, position: Position) -> Committed:
        store = self.stores.get(position.store_uid)
        committed = store.commits.get(position.revision) if store is not None else None
        if committed is None or committed.position.digest != position.digest:
            raise Violation("active is a committed snapshot", f"{shown(position)} was never committed")
        return committed

    def _check_order(self, plane: DataPlane, holder: str, after: Position, before: Position | None) -> None:
        if before is None:
            return
        if after.store_uid != before.store_uid:
            if not plane.policy.allow_new_store:
                raise Violation("positions never regress", f"{holder} went from {shown(before)} to another store")
        elif after.revision < before.revision and not self._may_go_back(
            self._accounts[plane.data_plane_id], before, after
        ):
            raise Violation("positions never regress", f"{holder} went from {shown(before)} to {shown(after)}")

    @staticmethod
    def _may_go_back(account: Account, before: Position, after: Position | None) -> bool:
        """Whether a data plane may go back, down to the newest snapshot that is proven.

        It has crashed twice on what it held, which is that snapshot or a later one.
        """
        crashed = any(
            crashes >= CRASHES_MAX and position not in account.proven and not _is_after(before, position)
            for position, crashes in account.crashes.items()
        )
        return crashed and not any(after is None or _is_after(position, after) for position in account.proven)

    def _note_everywhere(self, plane: DataPlane, account: Account) -> None:
        agent = plane.agent
        if agent is None or agent.keeper.snapshot is None:
            return
        position = agent.keeper.snapshot.position
        held = [replica.position for replica in plane.replicas if replica.position and not replica.forgotten]
        if all(item == position or _is_after(item, position) for item in held):
            account.everywhere.add(position)
        since_s = account.first_s.get(position)
        if since_s is not None and self._clock.now_s - since_s >= PROVEN_S and not plane.disk.read_only:
            account.proven.add(position)

    @staticmethod
    def _check_memory(agent: Agent) -> None:
        subscriber, connection = agent.subscriber, agent.connection
        assert subscriber is not None, "it has booted"
        if len(subscriber._phase_reports) > PHASE_REPORTS_MAX or len(subscriber.rejected) > REJECTED_MAX:
            raise Violation("memory is bounded", f"{agent.instance_uid} has {len(subscriber._phase_reports)} reports")
        if connection is not None and len(connection.to_server) > WINDOW_MESSAGES + 1:
            raise Violation("memory is bounded", f"{connection.name} has {len(connection.to_server)} messages")

    # -- what data planes do -----------------------------------------------------------------------

    def booted(self, plane: DataPlane, agent: Agent) -> None:
        account = self._accounts[plane.data_plane_id]
        account.committed, account.first_s, account.disk_damaged = set(), {}, False
        snapshot = agent.keeper.snapshot
        self._trace.add(agent.instance_uid, "boots with {}", snapshot.position if snapshot is not None else None)
        before = account.acknowledged
        if before is not None and (snapshot is None or _is_after(before, snapshot.position)):
            if not self._may_go_back(account, before, snapshot.position if snapshot is not None else None):
                raise Violation("positions never regress", f"{agent.instance_uid} forgot {shown(before)}")
            account.acknowledged = account.durable = snapshot.position if snapshot is not None else None
        self.stepped(plane)

    def crashed(self, plane: DataPlane, agent: Agent | None, *, power: bool) -> None:
        """Processes of a data plane have ended."""
        account = self._accounts[plane.data_plane_id]
        self._trace.add(plane.data_plane_id, "power cut" if power else "agent killed")
        for position in account.first_s:  # also if the next agent has not booted yet
            account.crashes[position] += position not in account.proven
        if account.durable is not None and account.durable != account.acknowledged:
            # It served from memory. The crash counts for what is on disk, too.
            account.crashes[account.durable] += account.durable not in account.proven
        if agent is not None and agent.subscriber is not None and agent.subscriber._deciding is not None:
            account.crashes[agent.subscriber._deciding] += 1  # it may be on disk already
        if power or not plane.relay.values:
            self.memory_lost(plane)

    def stopped(self, plane: DataPlane) -> None:
        """An agent has ended in good order."""
        self._trace.add(plane.data_plane_id, "agent stopped")
        if not plane.relay.values:
            self.memory_lost(plane)

    def memory_lost(self, plane: DataPlane) -> None:
        """Neither agent nor relay remember what is not on disk."""
        self._accounts[plane.data_plane_id].acknowledged = self._accounts[plane.data_plane_id].durable

    def disk_lost(self, plane: DataPlane) -> None:
        """What was on disk may be gone."""
        account = self._accounts[plane.data_plane_id]
        account.durable, account.disk_damaged = None, True
        if not plane.relay.values and (plane.agent is None or plane.agent.subscriber is None):
            account.acknowledged = None

    def agent_received(self, plane: DataPlane, agent: Agent, response: pb.SyncResponse) -> None:
        self._trace.add(agent.instance_uid, "reads {}", response)
        kind = response.WhichOneof("message")
        if kind == "commit":
            self._accounts[plane.data_plane_id].committed.add(Position.from_proto(response.commit.to))
        elif kind == "intent" and response.intent.mode != pb.Intent.MODE_NONE:
            position = Position.from_proto(response.intent.to)
            if plane.verifies:
                self._note_signature(self._accounts[plane.data_plane_id], position, response.intent)
            if position in self._rejected[_instance_of(agent)]:
                raise Violation("a rejected snapshot is not sent again", f"{shown(position)} to {_instance_of(agent)}")

    @staticmethod
    def _note_signature(account: Account, position: Position, intent: pb.Intent) -> None:
        if is_vouched_for(intent):
            account.vouched.add(position)
            account.forged.discard(position)
        else:
            account.forged.add(position)

    def agent_sent(self, plane: DataPlane, agent: Agent, request: pb.SyncRequest) -> None:
        self._trace.add(agent.instance_uid, "writes {}", request)
        if request.HasField("hello"):
            rejected = self._rejected[request.hello.instance_uid]
            rejected.update((Position.from_proto(position), None) for position in request.hello.rejected)

    def refused(self, plane: DataPlane, agent: Agent, rejected: Rejected) -> None:
        self._trace.add(agent.instance_uid, "rejects {}: " + rejected.reason, rejected.position)
        known = self._rejected[_instance_of(agent)]
        known[rejected.position] = None
        while len(known) > REJECTED_MAX:
            known.pop(next(iter(known)))
        if not self._is_bad(plane, rejected):
            raise Violation("a good snapshot is not rejected", f"{rejected.reason}: {rejected.message}")

    def _is_bad(self, plane: DataPlane, rejected: Rejected) -> bool:
        """Whether a rejection is right."""
        held = self._accounts[plane.data_plane_id]
        committed = self._committed(rejected.position)
        if rejected.reason == KEY_NOT_TRUSTED:
            return rejected.position in held.forged
        match rejected.reason:
            case str(reason) if reason == SNAPSHOT_TOO_LARGE:
                return len(committed.entries) > plane.policy.limits.entries_max or self.read_damage
            case str(reason) if reason == BASE_MODEL_MISSING:
                return committed.is_dangling or self.read_damage
            case str(reason) if reason == STORE_UID_MISMATCH:
                return not plane.policy.allow_new_store and any(
                    snapshot.position.store_uid != rejected.position.store_uid for snapshot in held.held.values()
                )
        return self.read_damage

    def decided(self, plane: DataPlane, agent: Agent, candidate: Candidate, outcome: Outcome) -> None:
        account = self._accounts[plane.data_plane_id]
        how = "a change" if isinstance(candidate.content, Change) else "a whole snapshot"
        if isinstance(outcome, Accepted):
            warning = f" with a warning: {outcome.warning}" if outcome.warning else ""
            self._trace.add(agent.instance_uid, "{} is active" + warning, candidate.position)
            account.acknowledged = candidate.position
            if not outcome.warning and not account.disk_damaged:
                account.durable = candidate.position
            self.stepped(plane)
        elif not isinstance(outcome, Rejection):
            self._trace.add(agent.instance_uid, how + " to {} diverged", candidate.position)
            if not self.read_damage:
                raise Violation("a good change comes out", f"the one to {shown(candidate.position)} did not")

    def agent_violated(self, plane: DataPlane, agent: Agent, error: ServerViolation) -> None:
        self._trace.add(agent.instance_uid, f"is offended: {error}")
        if not self.duplicates and not self.read_damage:
            raise Violation("both ends keep to the protocol", f"{agent.instance_uid}: {error}")

    # -- what control planes do --------------------------------------------------------------------

    def sent(self, stream: ServerStream, response: pb.SyncResponse) -> None:
        self._trace.add(stream.plane.name, f"to {stream.connection.name}: {{}}", response)
        self._check_view(stream, stream.subscription.progress)
        if response.HasField("intent") and response.intent.mode != pb.Intent.MODE_NONE:
            check_given(stream, response.intent.to.revision)

    def received(self, stream: ServerStream, request: pb.SyncRequest) -> None:
        self._trace.add(stream.plane.name, f"of {stream.connection.name}: {{}}", request)
        view = stream.plane.fleet.state.view(stream.stream.data_plane_id)
        if view is not None:
            self._check_view(stream, view.progress)

    def _check_view(self, stream: ServerStream, progress: Progress) -> None:
        """Check what a control plane says of a data plane."""
        serving, data_plane_id = progress.serving, stream.stream.data_plane_id
        if serving is None or progress.phase not in _ACTIVE:
            return
        position = Position(store_uid=serving.store_uid, revision=serving.revision, digest=serving.digest)
        if position not in self._accounts[data_plane_id].everywhere:
            raise Violation("ACTIVE is active at every ingress replica", f"{shown(position)} of {data_plane_id} is not")

    def rollout_moved(self, method: str, table: WavesTable) -> None:
        """An operator or a control plane has moved the rollout, or set the policy."""
        self._rollouts.moved(method, table, lambda: self._accounts[CANARY_ID].everywhere)

    def violated(self, stream: ServerStream, error: ClientViolation) -> None:
        self._trace.add(stream.plane.name, f"is offended by {stream.connection.name}: {error}")
        if not self.duplicates:
            raise Violation("both ends keep to the protocol", f"{stream.connection.name}: {error}")


def _check_content(holder: str, snapshot: Snapshot, committed: Committed) -> None:
    """Compare a snapshot with the one that was committed, and look for dangling references."""
    held: Mapping[str, tuple[str, bytes, bytes]] = {
        entry.name: (entry.type, entry.digest, entry.blob) for entry in snapshot.entries
    }
    right = {name: (entry.type, entry.digest, entry.blob) for name, entry in committed.entries.items()}
    if held != right:
        wrong = sorted(name for name in held.keys() | right.keys() if held.get(name) != right.get(name))
        raise Violation("active is a committed snapshot", f"{holder} has {', '.join(wrong)} not as committed")
    if committed.is_dangling:
        raise Violation("no dangling reference is active", f"{holder} decides by {shown(snapshot.position)}")
    for adapter in snapshot.adapters.values():
        if adapter.model not in snapshot.models:
            raise Violation("no dangling reference is active", f"{adapter.name} has no base at {holder}")


def _is_after(item: Position, position: Position) -> bool:
    return item.store_uid == position.store_uid and item.revision > position.revision


def _instance_of(agent: Agent) -> str:
    assert agent.subscriber is not None, "it has booted"
    return agent.subscriber._identity.instance_uid
