"""The data plane's end of the Sync stream as a state machine. Pure.

The shell (`client.py`) passes in the messages of the control plane (`receive`), the agent's
decision about a snapshot (`decided`) and the states of resources (`report`), and writes what
`take_message` returns. The state machine outlives streams: `open` and `close` begin and end a
stream. The legal inputs of each state are in `transitions.py`.

An illegal message raises `ProtocolViolation` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from dataplane.snapshot.assembler import Assembler
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.position_check import is_behind
from dataplane.snapshot.rejection import STORE_UID_MISMATCH, Rejection
from dataplane.snapshot.snapshot import Position, RawEntry
from dataplane.sync.events import Accepted, Candidate, Diverged, Ended, Event, Identity, Refused, Rejected
from dataplane.sync.rejections import Rejections
from dataplane.sync.resource_report import ResourceReport
from dataplane.sync.stream.announcements import (
    assembler_of,
    base_of,
    input_of,
    refuse_announced,
)
from dataplane.sync.stream.manifest import ManifestAssembler
from dataplane.sync.stream.phase_reports import PhaseReports
from dataplane.sync.transitions import Input, ProtocolViolation, State, next_state
from protocol.signing.heads import signed_head_of


class Subscriber:
    """The client's end of the protocol.

    Invariants: `state` changes along `TRANSITIONS` only; `serving` changes in `decided` only, and
    never moves backwards within a store; RECEIVING, COMPARING and FETCHING have an assembler.
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
        held: Callable[[], Iterable[RawEntry]] = tuple,
    ) -> None:
        """
        Args:
            identity: Sent in Hello.
            policy: The policy that `accept` is called with.
            serving: The snapshot in service; None if there is none.
            with_errors: Whether entries of it are quarantined.
            warning: What operators must know of it, reported with ACTIVE.
            rejected: Snapshots that were rejected before, the oldest first.
            held: The entries of the snapshot in service, ordered by name. Default: none.
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
        self._held = held
        self._assembler: Assembler | ManifestAssembler | None = None
        self._announced_signed_head = b""
        self._deciding: Position | None = None
        self._hello_due = self._replace_due = self._heartbeat_answer_due = False
        self._want_due: pb.Want | None = None
        self._phase_reports = PhaseReports()
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
        self._phase_reports.clear()
        if self.serving is not None:
            self._phase_reports.active(self.serving, with_errors=self.with_errors, warning=self._warning)
        newest = self._rejections.newest
        if newest is not None and not is_behind(newest.position, self.serving):
            self._phase_reports.rejected(newest, self.serving)

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
                return _ended(response.goodbye)
        raise ProtocolViolation("an empty message, or one that this release does not know")

    def _receive_intent(self, intent: pb.Intent) -> Event | None:
        position, following = Position.from_proto(intent.to), next_state(self.state, input_of(intent))
        if intent.mode == pb.Intent.MODE_NONE:
            if position != self.serving:
                raise ProtocolViolation("an Intent says that nothing is new, but names a snapshot that is not served")
            self.state, self.head = following, position
            return None
        base = base_of(intent, self.serving)
        self.head = position
        rejection = refuse_announced(intent, self.serving, self._rejections.get(position), self._policy)
        if rejection is not None:
            return self._refuse(position, rejection, Input.INTENT_REFUSED)
        self.state, self._assembler = following, assembler_of(intent, base, self._held, self._policy.limits)
        self._announced_signed_head = signed_head_of(intent)
        return None

    def _receive_chunk(self, chunk: pb.Chunk) -> Event | None:
        assembler = self._assembler
        taken = Input.REFS_HELD if chunk.refs and assembler is not None else Input.CHUNK
        following = next_state(self.state, taken)
        if assembler is None:  # DISCARDING
            return None
        self._require_want_sent()
        rejection = assembler.add(chunk)
        if rejection is not None:
            return self._refuse(assembler.position, rejection, Input.CHUNK_REFUSED)
        if isinstance(assembler, ManifestAssembler):
            following = next_state(self.state, assembler.taken(chunk))
            self._want_due = assembler.want if chunk.refs else None
        self.state = following
        return None

    def _receive_commit(self, commit: pb.Commit) -> Event | None:
        following = next_state(self.state, Input.COMMIT)
        if self._assembler is None:  # DISCARDING
            self.state = following
            return None
        self._require_want_sent()
        position = self._assembler.position
        if Position.from_proto(commit.to) != position:
            raise ProtocolViolation("a Commit names a snapshot other than the announced one")
        content = self._assembler.complete()
        if isinstance(content, Rejection):
            return self._refuse(position, content, Input.COMMIT_REFUSED)
        self.state, self._assembler = following, None
        self._deciding = position
        return Candidate(position=position, content=content, signed_head=self._announced_signed_head)

    def _require_want_sent(self) -> None:
        if self._want_due is not None:
            raise ProtocolViolation("the control plane went on before the Want was sent")

    def _refuse(self, position: Position, rejection: Rejection, taken: Input) -> Refused:
        """Refuse the announced snapshot before it is complete."""
        self.state, self._assembler = next_state(self.state, taken), None
        rejected = Rejected(position=position, reason=rejection.reason, message=rejection.message)
        self._rejections.add(rejected)
        self._phase_reports.rejected(rejected, self.serving)
        return Refused(rejected=rejected)

    # -- input of the agent ------------------------------------------------------------------------

    def takes_long(self) -> None:
        """Report that the candidate has arrived: its decision takes a while."""
        if self._deciding is not None and self.state is not State.CLOSED:
            self._phase_reports.received(self._deciding, self.serving)

    def waits(self, message: str) -> None:
        """Report what the accepted candidate waits for. Nothing is reported without a candidate."""
        if self._deciding is None or self.state is State.CLOSED:
            return
        self._phase_reports.waiting(self._deciding, self.serving, message)

    def decided(self, outcome: Accepted | Rejection | Diverged) -> Rejected | None:
        """Take the agent's decision about the candidate. Returns the rejection to remember."""
        position = self._deciding
        assert position is not None, "there is no candidate"
        reports_due = self.state is not State.CLOSED
        self.state = next_state(self.state, Input.DECIDED)
        self._deciding = None
        # RECEIVED may not follow the final phase.
        self._phase_reports.forget((position,))
        if isinstance(outcome, Diverged):
            self._want_due = pb.Want(to=position.to_proto()) if reports_due else None
            return None
        rejected = None
        if isinstance(outcome, Accepted):
            self.serving, self.with_errors, self._warning = position, outcome.with_errors, outcome.warning
            self._rejections.discard(position)
        else:
            rejected = Rejected(position=position, reason=outcome.reason, message=outcome.message)
            self._rejections.add(rejected)
        if reports_due and rejected is not None:
            self._phase_reports.rejected(rejected, self.serving)
        elif reports_due:
            self._phase_reports.active(position, with_errors=self.with_errors, warning=self._warning)
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
        self._phase_reports.forget(wanted)
        if wanted:
            self._identity = replace(self._identity, instance_uid=instance_uid)
        return bool(wanted)

    def report(self, resources: Mapping[str, status_pb2.ResourceStatus], traffic: pb.Traffic | None = None) -> None:
        """Set the current states of all resources worth reporting, by resource name.

        What differs from what was sent is sent next; states in between are left out. The caller
        must not change the messages later.
        """
        self._resources.set(resources, traffic)

    # -- messages to the control plane -------------------------------------------------------------

    def take_message(self) -> pb.SyncRequest | None:
        """Return the message to write next; None for nothing. What it returns counts as written."""
        if self.state is State.CLOSED:
            return None
        if self._hello_due:
            self._hello_due = False
            return pb.SyncRequest(hello=_hello(self._identity, self.serving, self._rejections))
        if self._want_due is not None:
            want, self._want_due = self._want_due, None
            return pb.SyncRequest(want=want)
        if not (self._phase_reports or self._replace_due or self._resources.is_due or self._heartbeat_answer_due):
            return None
        status = self._phase_reports.take_status(self.serving, replace=self._replace_due)
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
        features=[pb.FEATURE_DELTA, pb.FEATURE_MANIFEST, pb.FEATURE_BATCH],
        labels=identity.labels,
    )


def _ended(goodbye: pb.Goodbye) -> Ended:
    after = goodbye.reconnect_after
    return Ended(reason=goodbye.reason, reconnect_after_s=after.seconds + after.nanos / 1e9)
