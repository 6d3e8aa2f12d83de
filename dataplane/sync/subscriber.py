"""The data plane's end of the Sync stream as a state machine. Pure.

The shell (`client.py`) passes in the messages of the control plane (`receive`), the agent's
decision about a snapshot (`decided`) and the states of resources (`report`), and writes what
`take_message` returns. The state machine outlives streams: `open` and `close` begin and end a
stream. The legal inputs of each state are in `transitions.py`.

An illegal message raises `ProtocolViolation` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from dataplane.snapshot.assembler import Assembler
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.position_check import is_behind, refuse_position
from dataplane.snapshot.rejection import STORE_UID_MISMATCH, Rejection
from dataplane.snapshot.snapshot import Position
from dataplane.sync.events import Accepted, Candidate, Diverged, Ended, Event, Identity, Refused, Rejected
from dataplane.sync.rejections import Rejections
from dataplane.sync.resource_report import TEXT_CHARACTERS_MAX, ResourceReport
from dataplane.sync.transitions import Input, ProtocolViolation, State, next_state
from protocol.validation import plain_text


@dataclass(frozen=True, slots=True, kw_only=True)
class _PhaseReport:
    """A phase of a snapshot, to be sent. `serving` is of the moment when the phase was reached."""

    target: Position
    serving: Position | None
    phase: pb.Phase.ValueType
    reason: str = ""
    message: str = ""


class Subscriber:
    """The client's end of the protocol.

    Invariants: `state` changes along `TRANSITIONS` only; `serving` changes in `decided` only, and
    never moves backwards within a store; the assembler is set exactly in RECEIVING; at most four
    phase reports are pending.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        policy: Policy,
        serving: Position | None,
        with_errors: bool = False,
        warning: str = "",
        rejected: Iterable[Rejected] = (),
    ) -> None:
        """
        Args:
            identity: Sent in Hello.
            policy: The policy that `accept` is called with.
            serving: The snapshot in service; None if there is none.
            with_errors: Whether entries of it are quarantined.
            warning: What operators must know of it, reported with ACTIVE.
            rejected: Snapshots that were rejected before, the oldest first.
        """
        self.state = State.CLOSED
        self.serving = serving
        self.with_errors = with_errors
        self._warning = warning
        self.head: Position | None = None
        """The newest snapshot that the control plane has announced."""
        self._identity = identity
        self._policy = policy
        self._rejections = Rejections(
            item for item in rejected if item.position != serving and _still_holds(item, policy)
        )
        self._assembler: Assembler | None = None
        self._deciding: Position | None = None
        self._hello_due = False
        self._replace_due = False
        self._heartbeat_answer_due = False
        self._want_due: Position | None = None
        self._phase_reports: list[_PhaseReport] = []
        self._resources = ResourceReport()

    @property
    def deciding(self) -> bool:
        """Whether a snapshot waits for the agent's decision. No stream may be opened meanwhile."""
        return self._deciding is not None

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """The rejections that are remembered, the oldest first."""
        return tuple(self._rejections)

    # -- streams -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin a stream. Hello is due, then the whole state of this data plane."""
        assert self._deciding is None, "Hello must name the snapshot in service"
        self.state = next_state(self.state, Input.OPEN)
        self._hello_due, self._replace_due, self._heartbeat_answer_due = True, True, False
        self._want_due = None
        self._resources.restart()
        self._phase_reports = [] if self.serving is None else [self._active_report(self.serving)]
        newest = self._rejections.newest
        if newest is not None and not is_behind(newest.position, self.serving):
            self._phase_reports.append(_rejected_report(newest, self.serving))

    def close(self) -> None:
        """End the stream. A pending decision stays pending."""
        self.state = next_state(self.state, Input.CLOSE)
        self._assembler = None

    # -- messages of the control plane -------------------------------------------------------------

    def receive(self, response: pb.SyncResponse) -> Event | None:
        """Process a message. Returns what the shell has to act on, if anything.

        Raises:
            ProtocolViolation: The control plane may not send this now. Nothing was changed.
        """
        assert self.state is not State.CLOSED, "no stream is open"
        match response.WhichOneof("message"):
            case "intent":
                return self._receive_intent(response.intent)
            case "chunk":
                return self._receive_chunk(response.chunk)
            case "commit":
                return self._receive_commit(response.commit)
            case "heartbeat":
                self.state = next_state(self.state, Input.HEARTBEAT)
                self.head = Position.from_proto(response.heartbeat.head)
                self._heartbeat_answer_due = True
                return None
            case "goodbye":
                self.state = next_state(self.state, Input.GOODBYE)
                self._assembler = None
                after = response.goodbye.reconnect_after
                return Ended(reason=response.goodbye.reason, reconnect_after_s=after.seconds + after.nanos / 1e9)
        raise ProtocolViolation("an empty message, or one that this release does not know")

    def _receive_intent(self, intent: pb.Intent) -> Event | None:
        position = Position.from_proto(intent.to)
        if intent.mode == pb.Intent.MODE_NONE:
            following = next_state(self.state, Input.INTENT_NONE)
            if position != self.serving:
                raise ProtocolViolation("an Intent says that nothing is new, but names a snapshot that is not served")
            self.state, self.head = following, position
            return None
        following = next_state(self.state, _announcement(intent.mode))
        base = _base(intent, self.serving)
        self.head = position
        limits, head = self._policy.limits, _signed_head(intent)
        assembler = Assembler(position, intent.entry_count, limits, base=base, signed_head=head)
        rejection = self._refuse_announced(position) or _refuse_intent(intent, self.serving, self._policy)
        rejection = rejection or assembler.refuse_announcement()
        if rejection is not None:
            return self._refuse(position, rejection, Input.INTENT_REFUSED)
        self.state, self._assembler = following, assembler
        return None

    def _refuse_announced(self, position: Position) -> Rejection | None:
        known = self._rejections.get(position)
        return Rejection(reason=known.reason, message=known.message) if known is not None else None

    def _receive_chunk(self, chunk: pb.Chunk) -> Event | None:
        self.state = next_state(self.state, Input.CHUNK)
        if self._assembler is None:  # DISCARDING
            return None
        rejection = self._assembler.add(chunk)
        return None if rejection is None else self._refuse(self._assembler.position, rejection, Input.CHUNK_REFUSED)

    def _receive_commit(self, commit: pb.Commit) -> Event | None:
        following = next_state(self.state, Input.COMMIT)
        if self._assembler is None:  # DISCARDING
            self.state = following
            return None
        position, signed_head = self._assembler.position, self._assembler.signed_head
        if Position.from_proto(commit.to) != position:
            raise ProtocolViolation("a Commit names a snapshot other than the announced one")
        content = self._assembler.complete()
        if isinstance(content, Rejection):
            return self._refuse(position, content, Input.COMMIT_REFUSED)
        self.state, self._assembler = following, None
        self._deciding = position
        self._phase_reports.append(_PhaseReport(target=position, serving=self.serving, phase=pb.PHASE_RECEIVED))
        return Candidate(position=position, content=content, signed_head=signed_head)

    def _refuse(self, position: Position, rejection: Rejection, taken: Input) -> Refused:
        """Refuse the announced snapshot before it is complete."""
        self.state, self._assembler = next_state(self.state, taken), None
        rejected = Rejected(position=position, reason=rejection.reason, message=rejection.message)
        self._rejections.add(rejected)
        self._phase_reports.append(_rejected_report(rejected, self.serving))
        return Refused(rejected=rejected)

    # -- input of the agent ------------------------------------------------------------------------

    def waits(self, message: str) -> None:
        """Report what the accepted candidate waits for. Nothing is reported without a candidate."""
        if self._deciding is None or self.state is State.CLOSED:
            return
        self._phase_reports = [report for report in self._phase_reports if report.phase != pb.PHASE_PREPARED]
        self._phase_reports.append(_waiting_report(self._deciding, self.serving, message))

    def decided(self, outcome: Accepted | Rejection | Diverged) -> Rejected | None:
        """Take the agent's decision about the candidate. Returns the rejection to remember."""
        position = self._deciding
        assert position is not None, "there is no candidate"
        reports_due = self.state is not State.CLOSED
        self.state = next_state(self.state, Input.DECIDED)
        self._deciding = None
        # RECEIVED may not follow the final phase.
        self._phase_reports = [report for report in self._phase_reports if report.target != position]
        if isinstance(outcome, Diverged):
            self._want_due = position if reports_due else None
            return None
        rejected = None
        if isinstance(outcome, Accepted):
            self.serving, self.with_errors, self._warning = position, outcome.with_errors, outcome.warning
            self._rejections.discard(position)
        else:
            rejected = Rejected(position=position, reason=outcome.reason, message=outcome.message)
            self._rejections.add(rejected)
        if reports_due:
            report = _rejected_report(rejected, self.serving) if rejected else self._active_report(position)
            self._phase_reports.append(report)
        return rejected

    def take_back(self, positions: Iterable[Position], *, instance_uid: str) -> bool:
        """Take rejections back, and introduce this data plane as another instance from now on.

        The control plane recalls what this instance has rejected. It sends a snapshot again that
        another one does not list in its Hello.

        Returns:
            Whether the next Hello can make a difference: one of them was still rejected, and no
            newer one is in service.
        """
        wanted = [item for item in positions if self._rejections.get(item) and not is_behind(item, self.serving)]
        for position in wanted:
            self._rejections.discard(position)
        # A Status must not speak of what the next Hello no longer lists.
        self._phase_reports = [report for report in self._phase_reports if report.target not in wanted]
        if wanted:
            self._identity = replace(self._identity, instance_uid=instance_uid)
        return bool(wanted)

    def report(self, resources: Mapping[str, status_pb2.ResourceStatus]) -> None:
        """Set the current states of all resources worth reporting, by resource name.

        What differs from what was sent is sent next; states in between are left out. The caller
        must not change the messages later.
        """
        self._resources.set(resources)

    def _active_report(self, position: Position) -> _PhaseReport:
        phase = pb.PHASE_ACTIVE_WITH_ERRORS if self.with_errors else pb.PHASE_ACTIVE
        return _PhaseReport(target=position, serving=position, phase=phase, message=_text(self._warning))

    # -- messages to the control plane -------------------------------------------------------------

    def take_message(self) -> pb.SyncRequest | None:
        """Return the message to write next; None for nothing. What it returns counts as written."""
        if self.state is State.CLOSED:
            return None
        if self._hello_due:
            self._hello_due = False
            return pb.SyncRequest(hello=_hello(self._identity, self.serving, self._rejections))
        if self._want_due is not None:
            wanted, self._want_due = self._want_due, None
            return pb.SyncRequest(want=pb.Want(to=wanted.to_proto()))
        if not (self._phase_reports or self._replace_due or self._resources.is_due or self._heartbeat_answer_due):
            return None
        status = pb.Status(replace=self._replace_due)
        serving = self.serving
        if self._phase_reports:
            report = self._phase_reports.pop(0)
            status.target.CopyFrom(report.target.to_proto())
            status.phase, status.reason, status.message = report.phase, report.reason, report.message
            serving = report.serving
        if serving is not None:
            status.serving.CopyFrom(serving.to_proto())
        if self._replace_due or not status.HasField("target"):
            self._resources.fill(status)
        self._replace_due = self._heartbeat_answer_due = False
        return pb.SyncRequest(status=status)


def _still_holds(rejected: Rejected, policy: Policy) -> bool:
    """Once an operator allows another store, a snapshot refused for its store is wanted."""
    return not (policy.allow_new_store and rejected.reason == STORE_UID_MISMATCH)


def _hello(identity: Identity, serving: Position | None, rejections: Rejections) -> pb.Hello:
    return pb.Hello(
        data_plane=identity.data_plane,
        instance_uid=identity.instance_uid,
        have=serving.to_proto() if serving is not None else None,
        rejected=[rejected.position.to_proto() for rejected in rejections],
        http_address=identity.http_address,
        software_version=identity.software_version,
        features=[pb.FEATURE_DELTA],
    )


def _signed_head(intent: pb.Intent) -> bytes:
    return intent.signed_head.SerializeToString() if intent.HasField("signed_head") else b""


def _refuse_intent(intent: pb.Intent, serving: Position | None, policy: Policy) -> Rejection | None:
    position = Position.from_proto(intent.to)
    return refuse_position(position, serving, allow_new_store=policy.allow_new_store) or policy.refuse_head(
        position, intent.entry_count, _signed_head(intent)
    )


def _base(intent: pb.Intent, serving: Position | None) -> Position | None:
    """Where an announced change begins; None: a whole snapshot follows.

    Raises:
        ProtocolViolation: It is not what is served.
    """
    if intent.mode != pb.Intent.MODE_DELTA:
        return None
    if Position.from_proto(intent.base) != serving:
        raise ProtocolViolation("a change does not begin at the snapshot that is served")
    return serving


def _announcement(mode: pb.Intent.Mode.ValueType) -> Input:
    """
    Raises:
        ProtocolViolation: This release does not know the mode.
    """
    if mode == pb.Intent.MODE_FULL:
        return Input.INTENT_FULL
    if mode == pb.Intent.MODE_DELTA:
        return Input.INTENT_DELTA
    raise ProtocolViolation(f"an Intent has mode {mode}, which this release does not know")


def _waiting_report(target: Position, serving: Position | None, message: str) -> _PhaseReport:
    return _PhaseReport(target=target, serving=serving, phase=pb.PHASE_PREPARED, message=_text(message))


def _rejected_report(rejected: Rejected, serving: Position | None) -> _PhaseReport:
    return _PhaseReport(
        target=rejected.position,
        serving=serving,
        phase=pb.PHASE_REJECTED,
        reason=rejected.reason,
        message=_text(rejected.message),
    )


def _text(message: str) -> str:
    return plain_text(message[:TEXT_CHARACTERS_MAX])
