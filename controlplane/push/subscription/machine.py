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
from controlplane.push.subscription.rejections import Rejections
from controlplane.push.subscription.reports import Received, read_status
from controlplane.push.subscription.states import TRANSITIONS, Event, State
from controlplane.push.subscription.timing import Limits, Timers
from controlplane.push.subscription.transfer import ChangeRequest, ChunkRequest, Transfer
from controlplane.push.subscription.violations import ProtocolViolation, checked_position, refuse
from protocol.validation import nul_violations, violations_of

RECONNECT_AFTER_TIMEOUT_S = 1.0
"""Seconds that a client is asked to wait before it reconnects, when its stream has ended because of
a missed deadline."""


class Subscription:
    """The control plane's end of a stream.

    Invariants: a transfer is under way exactly in SENDING and ANSWER_EXPECTED; it is never of a
    rejected position; the revision of the head only grows; the client's `serving` changes only to
    what was committed to it.
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
        self._head = head
        self._transfer: Transfer | None = None
        self._announced: Position | None = None
        """The head in the last Intent or Heartbeat."""
        self._whole_due = False
        """The client has asked for the whole snapshot: a change did not come out."""
        self._rejections = Rejections()
        self._timers = Timers(limits, now_s=now_s)
        self._goodbye: pb.Goodbye | None = None

    # -- what the control plane does ---------------------------------------------------------------

    def publish(self, head: Head) -> None:
        """Point to a newer head. A transfer that is under way goes on."""
        if head.position.revision > self._head.position.revision:
            self._head = head

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
        if progress.target is None or not (progress.target == self.progress.serving or self.rejects(progress.target)):
            return
        serving = self.progress.serving
        with_errors = progress.with_errors and progress.serving == serving
        self.progress = replace(progress, serving=serving, with_errors=with_errors)

    def end(self, reason: str, *, reconnect_after_s: float) -> None:
        """Say Goodbye next, whatever is under way. Later reasons are ignored."""
        if self._goodbye is None:
            self._goodbye = goodbye(reason, reconnect_after_s=reconnect_after_s)

    # -- questions ---------------------------------------------------------------------------------

    @property
    def in_flight(self) -> Head | None:
        """The snapshot that is being sent, or whose answer is awaited; None: there is none."""
        return self._transfer.head if self._transfer is not None else None

    @property
    def oldest_in_use(self) -> int | None:
        """The oldest catalog revision that the transfer is read from; None: there is none."""
        if self._transfer is None:
            return None
        return (self._transfer.base or self._transfer.head.position).revision

    @property
    def chunks_written(self) -> int:
        """Chunks of the snapshot in flight that are written."""
        return self._transfer.chunks_written if self._transfer is not None else 0

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

    def take_output(self, now_s: float) -> pb.SyncResponse | ChangeRequest | ChunkRequest | None:
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
        if self.state is State.IDLE and self._announced != self._head.position:
            return self._announce_head(now_s)
        return None

    def announce(self, request: ChangeRequest, *, can_send_change: bool) -> pb.SyncResponse:
        """The Intent to write, in answer to `request`.

        Args:
            request: What `take_output` has returned.
            can_send_change: Whether the change is known; otherwise the whole snapshot is sent.
        """
        return self._begin_transfer(request.head, request.base if can_send_change else None)

    def chunk_written(self, chunk: pb.Chunk) -> None:
        """The chunk that was asked for is written."""
        if self.state is State.SENDING and self._transfer is not None:
            self._transfer.written(chunk)

    def change_written(self) -> None:
        """The change that was asked for has no more chunks."""
        if self.state is State.SENDING and self._transfer is not None:
            self._transfer.change_is_written = True

    def _heartbeat(self, now_s: float) -> pb.SyncResponse:
        self._timers.heartbeat_sent(now_s)
        return pb.SyncResponse(heartbeat=pb.Heartbeat(head=position_to_proto(self._head.position)))

    def _announce_head(self, now_s: float) -> pb.SyncResponse | ChangeRequest:
        head, serving = self._head, self.progress.serving
        if self.rejects(head.position):
            self._announced = head.position
            return self._heartbeat(now_s)
        if head.position == serving:
            self._announced = head.position
            return _intent(pb.Intent.MODE_NONE, head)
        takes_changes = self.hello is not None and pb.FEATURE_DELTA in self.hello.features
        if serving is not None and takes_changes and not self._whole_due and _is_before(serving, head.position):
            return ChangeRequest(base=serving, head=head)
        return self._begin_transfer(head, None)

    def _begin_transfer(self, head: Head, base: Position | None) -> pb.SyncResponse:
        self._move(Event.INTENT)
        self._announced, self._whole_due = head.position, False
        self._transfer = Transfer(head, base)
        return _intent(pb.Intent.MODE_FULL if base is None else pb.Intent.MODE_DELTA, head, base)

    def _continue_sending(self, now_s: float) -> pb.SyncResponse | ChunkRequest:
        assert self._transfer is not None, "SENDING has a transfer"
        chunk = self._transfer.next_chunk
        if chunk is not None:
            return chunk
        self._move(Event.COMMIT)
        self._timers.commit_sent(now_s)
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
        self.hello = hello
        for position in rejected:
            self._rejections.add(position)
        phase = pb.PHASE_ACTIVE if serving else pb.PHASE_UNSPECIFIED
        self.progress = Progress(serving=serving, target=serving, phase=phase)

    def _receive_status(self, status: pb.Status) -> ResourceChange:
        in_flight = self._transfer.head.position if self._transfer is not None else None
        report = read_status(
            status,
            Received(state=self.state, progress=self.progress, in_flight=in_flight, rejections=self._rejections),
        )
        if report.answer is Event.NACK and in_flight is not None:
            self._rejections.add(in_flight)
        if report.answer is not None:
            self._move(report.answer)
            self._transfer = None
            self._timers.answered()
        self.progress = report.progress
        return report.change

    def _receive_want(self, want: pb.Want) -> None:
        transfer = self._transfer
        if self.state is not State.ANSWER_EXPECTED or transfer is None or transfer.base is None:
            refuse("Want answers the Commit of a change, and came at another time", "want")
        if checked_position("want.to", want.to) != transfer.head.position:
            refuse("it is not the snapshot that was sent last", "want.to")
        self._move(Event.WANT)
        self._transfer, self._announced, self._whole_due = None, None, True
        self._timers.answered()

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state, event]


def _is_before(serving: Position, to: Position) -> bool:
    return serving.store_uid == to.store_uid and serving.revision < to.revision


def _intent(mode: pb.Intent.Mode.ValueType, head: Head, base: Position | None = None) -> pb.SyncResponse:
    intent = pb.Intent(mode=mode, to=position_to_proto(head.position), entry_count=head.entry_count)
    if base is not None:
        intent.base.CopyFrom(position_to_proto(base))
    return pb.SyncResponse(intent=intent)
