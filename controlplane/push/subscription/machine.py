"""One Sync stream as a state machine. Pure.

The shell (`controlplane.push.sync`) passes in what arrives (`receive`), what was committed
(`publish`) and the time, and writes what `take_output` returns. Nothing queues here: the head is a
pointer, and at most a single snapshot is under way. `states.py` has the transitions.

An illegal message raises `ProtocolViolation` and changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import position_to_proto
from controlplane.catalog.domain import Head, Position
from controlplane.fleet.progress import NO_CHANGE, Progress, ResourceChange
from controlplane.push.subscription.goodbyes import goodbye
from controlplane.push.subscription.modes import Features, Mode, mode_for, mode_without_change
from controlplane.push.subscription.rejections import Rejections
from controlplane.push.subscription.reports import Received, read_status
from controlplane.push.subscription.states import TRANSITIONS, Event, State
from controlplane.push.subscription.timing import Limits, Timers
from controlplane.push.subscription.transfer import ChangeRequest, PieceRequest, Transfer, Written
from controlplane.push.subscription.violations import ProtocolViolation, checked_position, refuse
from controlplane.push.subscription.wants import read_want
from protocol.validation import nul_violations, violations_of

RECONNECT_AFTER_TIMEOUT_S = 1.0
"""Seconds that a client is asked to wait before it reconnects, when its stream has ended because of
a missed deadline."""


class Subscription:
    """The control plane's end of a stream.

    Invariants: a transfer is under way exactly in SENDING, WANT_EXPECTED and ANSWER_EXPECTED; it is
    never of a rejected position; the revision of the head only grows; the client's `serving`
    changes only to what was committed to it.
    """

    def __init__(self, *, head: Head, limits: Limits, now_s: float) -> None:
        """
        Args:
            head: The newest snapshot.
            limits: How long things may take.
            now_s: The time. Seconds of any clock that does not go back.
        """
        self.state = State.HELLO_EXPECTED
        self.hello: pb.Hello | None = None
        self.progress = Progress()
        self._features: Features = ()
        self._head = head
        self._newest_revision = head.position.revision
        self._transfer: Transfer | None = None
        self._announced: Position | None = None
        """The head in the last Intent or Heartbeat."""
        self._diverged: Mode = pb.Intent.MODE_UNSPECIFIED
        """The mode of what did not come out at the client, until the next transfer begins."""
        self._rejections = Rejections()
        self._timers = Timers(limits, now_s=now_s)
        self._goodbye: pb.Goodbye | None = None

    # -- what the control plane does ---------------------------------------------------------------

    def publish(self, head: Head, *, newest_revision: int = 0) -> bool:
        """Point to a newer head, the last that the client may have. Returns whether it is newer.

        A transfer that is under way goes on. There may be later snapshots, up to `newest_revision`.
        """
        self._newest_revision = max(self._newest_revision, newest_revision, head.position.revision)
        before, self._head = self._head, max(self._head, head, key=lambda known: known.position.revision)
        return self._head is not before

    def announce_again(self) -> None:
        """Announce the head once more when nothing is under way: its signatures have changed."""
        self._announced = None

    def recall(self, progress: Progress, *, same_instance: bool) -> None:
        """Take what was known of this data plane before the stream; called once, after its Hello.

        Args:
            progress: What was known.
            same_instance: Whether the agent has not restarted since. Its rejections then still
                hold. After a restart its disk, release or settings may have changed, and its Hello
                lists what it rejects.
        """
        if same_instance and progress.phase == pb.PHASE_REJECTED and progress.target is not None:
            self._rejections.add(progress.target)
        serving, target = self.progress.serving, progress.target
        if target is not None and (target == serving or self.rejects(target)):
            with_errors = progress.with_errors and progress.serving == serving
            self.progress = replace(progress, serving=serving, with_errors=with_errors)

    def end(self, reason: str, *, reconnect_after_s: float) -> None:
        """Say Goodbye next, whatever is under way. Later reasons are ignored."""
        self._goodbye = self._goodbye or goodbye(reason, reconnect_after_s=reconnect_after_s)

    @property
    def head(self) -> Head:
        """The snapshot in flight; without one, the newest that the client may have."""
        return self._transfer.head if self._transfer is not None else self._head

    @property
    def oldest_in_use(self) -> int | None:
        """The oldest catalog revision that the transfer is read from; None: there is none."""
        transfer = self._transfer
        return None if transfer is None else (transfer.base or transfer.head.position).revision

    def rejects(self, position: Position) -> bool:
        """Whether the client has rejected `position`."""
        return position in self._rejections

    @property
    def settled(self) -> bool:
        """Whether the client has dealt with the head: it serves it or has rejected it."""
        position = self._head.position
        return self._transfer is None and (position == self.progress.serving or self.rejects(position))

    @property
    def settled_revision(self) -> int | None:
        """The revision of the head, if `settled`; else None."""
        return self._head.position.revision if self.settled else None

    def overdue(self, now_s: float) -> str | None:
        """The reason to end the stream by now; None: there is none."""
        return self._timers.overdue(self.state, now_s)

    def ending(self, now_s: float) -> bool:
        """Whether Goodbye is due."""
        return self._goodbye is not None or self.overdue(now_s) is not None

    @property
    def due_s(self) -> float:
        """When `take_output` has something to send even if nothing else happens."""
        return self._timers.due_s(self.state)

    # -- what is sent to the client ----------------------------------------------------------------

    def take_output(self, now_s: float) -> pb.SyncResponse | ChangeRequest | PieceRequest | None:
        """What to write next; None: nothing for now. What it returns counts as written."""
        if self.state is State.CLOSED:
            return None
        overdue = self.overdue(now_s)
        if overdue is not None:
            self.end(overdue, reconnect_after_s=RECONNECT_AFTER_TIMEOUT_S)
        if self._goodbye is not None:
            self._move(Event.GOODBYE)
            self._transfer = None
            return pb.SyncResponse(goodbye=self._goodbye)
        if self.state is State.HELLO_EXPECTED:
            return None
        if self._timers.heartbeat_is_due(now_s):
            return self._heartbeat(now_s)
        if self.state is State.SENDING:
            return self._continue_sending(now_s)
        if self.state is State.WANT_EXPECTED:
            self._timers.answer_awaited(now_s)
        if self.state is State.IDLE and self._announced != self._head.position:
            return self._announce_head(now_s)
        return None

    def announce(self, request: ChangeRequest, *, can_send_change: bool) -> pb.SyncResponse:
        """The Intent to write, in answer to `request`.

        Args:
            request: What `take_output` has returned.
            can_send_change: Whether the change is known. Else a manifest is sent, or everything.
        """
        if can_send_change:
            return self._begin_transfer(request.head, pb.Intent.MODE_DELTA, request.base)
        mode = mode_without_change(self.progress.serving, self._features, self._diverged)
        return self._begin_transfer(request.head, mode)

    def chunk_written(self, chunk: Written) -> None:
        """The chunk that was asked for is written. After refs, their Want is awaited."""
        if self.state is State.SENDING and self._transfer is not None:
            self._transfer.written(chunk)
            if chunk.refs_count:
                self._move(Event.REFS)

    def change_written(self) -> None:
        """The change that was asked for has no more chunks."""
        if self.state is State.SENDING and self._transfer is not None:
            self._transfer.change_is_written()

    def _heartbeat(self, now_s: float) -> pb.SyncResponse:
        self._timers.heartbeat_sent(now_s)
        head = _kept(self.progress.serving, self._head.position, self._newest_revision) or self._head.position
        return pb.SyncResponse(heartbeat=pb.Heartbeat(head=position_to_proto(head)))

    def _announce_head(self, now_s: float) -> pb.SyncResponse | ChangeRequest:
        head, serving = self._head, self.progress.serving
        if self.rejects(head.position) or _kept(serving, head.position, self._newest_revision):
            self._announced = head.position
            return self._heartbeat(now_s)
        mode = mode_for(head.position, serving, self._features, self._diverged)
        if mode == pb.Intent.MODE_NONE:
            self._announced = head.position
            return _intent(mode, head)
        if mode == pb.Intent.MODE_DELTA and serving is not None:
            return ChangeRequest(base=serving, head=head)
        return self._begin_transfer(head, mode)

    def _begin_transfer(self, head: Head, mode: Mode, base: Position | None = None) -> pb.SyncResponse:
        self._move(Event.INTENT)
        self._announced, self._diverged = head.position, pb.Intent.MODE_UNSPECIFIED
        self._transfer = Transfer(head, mode, base)
        return _intent(mode, head, base)

    def _continue_sending(self, now_s: float) -> pb.SyncResponse | PieceRequest:
        assert self._transfer is not None, "SENDING has a transfer"
        piece = self._transfer.next_piece
        if piece is not None:
            return piece
        self._move(Event.COMMIT)
        self._timers.answer_awaited(now_s)
        return pb.SyncResponse(commit=pb.Commit(to=position_to_proto(self._transfer.head.position)))

    # -- what the client sends ---------------------------------------------------------------------

    def receive(self, request: pb.SyncRequest, now_s: float) -> ResourceChange:
        """Take a message. After Goodbye it changes nothing.

        Raises:
            ProtocolViolation: it is invalid, or illegal now. Nothing was changed.
        """
        violations = nul_violations(request) or violations_of(request)
        if violations:
            raise ProtocolViolation("the message is invalid", violations)
        if self.state is State.CLOSED:
            # The client sent it before it could read the Goodbye.
            return NO_CHANGE
        change = NO_CHANGE
        match request.WhichOneof("message"):
            case "hello":
                self._receive_hello(request.hello)
            case "want":
                self._receive_want(request.want)
            case _:
                change = self._receive_status(request.status)
        self._timers.received(now_s)
        return change

    def _receive_hello(self, hello: pb.Hello) -> None:
        if self.state is not State.HELLO_EXPECTED:
            refuse("Hello came twice")
        serving = checked_position("hello.have", hello.have) if hello.HasField("have") else None
        rejected = [checked_position("hello.rejected", position) for position in hello.rejected]
        if serving in rejected:
            refuse("Hello lists what it serves as rejected", "hello.rejected")
        self._move(Event.HELLO)
        self.hello, self._features = hello, frozenset(hello.features)
        for position in rejected:
            self._rejections.add(position)
        phase = pb.PHASE_ACTIVE if serving else pb.PHASE_UNSPECIFIED
        self.progress = Progress(serving=serving, target=serving, phase=phase)

    def _receive_status(self, status: pb.Status) -> ResourceChange:
        in_flight = self._transfer.head.position if self._transfer is not None else None
        found = Received(state=self.state, progress=self.progress, in_flight=in_flight, rejections=self._rejections)
        report = read_status(status, found)
        if report.answer is Event.NACK and in_flight is not None:
            self._rejections.add(in_flight)
        if report.answer is not None:
            self._move(report.answer)
            self._transfer = None
            self._timers.answered()
        self.progress = report.progress
        return report.change

    def _receive_want(self, want: pb.Want) -> None:
        transfer, names = read_want(want, self.state, self._transfer)
        if names is not None:
            self._move(Event.WANT)
            transfer.want(names)
        else:
            self._move(Event.DIVERGED)
            self._transfer, self._announced, self._diverged = None, None, transfer.mode
        self._timers.answered()

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state, event]


def _kept(serving: Position | None, head: Position, newest_revision: int) -> Position | None:
    """What the client serves, if that is later than what it may have by now; else None.

    It had been given it before. A revision that there is not yet is from a store that was restored.
    """
    if serving is None or not _is_before(head, serving) or serving.revision > newest_revision:
        return None
    return serving


def _is_before(serving: Position, to: Position) -> bool:
    return serving.store_uid == to.store_uid and serving.revision < to.revision


def _intent(mode: Mode, head: Head, base: Position | None = None) -> pb.SyncResponse:
    intent = pb.Intent(mode=mode, to=position_to_proto(head.position), entry_count=head.entry_count)
    if base is not None:
        intent.base.CopyFrom(position_to_proto(base))
    return pb.SyncResponse(intent=intent)
