"""One Sync stream as a state machine: what the control plane knows of a data plane, and what it
says next. Pure.

The shell (`sync.py`) feeds it what arrives (`receive`), what was committed (`publish`) and the
time, and writes what `take_output` returns. Nothing queues here: the head is a pointer, and one
snapshot at most is under way.

    state            event          next
    HELLO_EXPECTED   HELLO          IDLE
    IDLE             INTENT_FULL    SENDING
    SENDING          COMMIT         ANSWER_EXPECTED
    SENDING          NACK           IDLE             a client may refuse before the end
    ANSWER_EXPECTED  ACK, NACK      IDLE
    any              GOODBYE        CLOSED

An illegal message raises `ProtocolViolation` and changes nothing.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NoReturn

from google.protobuf import duration_pb2

from broadsheet.v1 import snapshot_pb2, status_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import position_from_proto, position_to_proto
from controlplane.catalog.domain import Head, Position
from controlplane.fleet.progress import NO_CHANGE, Progress, ResourceChange
from protocol.validation import FieldViolation, violations_of

# Reasons of Goodbye. Part of the API.
SHUTTING_DOWN = "SHUTTING_DOWN"
SUPERSEDED = "SUPERSEDED"
ANSWER_TIMEOUT = "ANSWER_TIMEOUT"
SILENT = "SILENT"

REJECTED_MAX = 32
"""Rejected positions remembered per stream: 16 that a Hello may list, and as many again from the
stream itself. Older ones never become the head again."""

_DIGEST_BYTES = 32
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_TEXT_CHARACTERS_MAX = 4096
_NAME_CHARACTERS_MAX = 256


class State(enum.Enum):
    """Where a stream is."""

    HELLO_EXPECTED = "HELLO_EXPECTED"
    IDLE = "IDLE"
    """The client has, or refuses, what it was last sent."""
    SENDING = "SENDING"
    """Intent was sent, and Commit was not."""
    ANSWER_EXPECTED = "ANSWER_EXPECTED"
    """Commit was sent, and the answer has not come."""
    CLOSED = "CLOSED"


class _Event(enum.Enum):
    HELLO = enum.auto()
    INTENT_FULL = enum.auto()
    COMMIT = enum.auto()
    ACK = enum.auto()
    NACK = enum.auto()


_TRANSITIONS: Mapping[tuple[State, _Event], State] = MappingProxyType(
    {
        (State.HELLO_EXPECTED, _Event.HELLO): State.IDLE,
        (State.IDLE, _Event.INTENT_FULL): State.SENDING,
        (State.SENDING, _Event.COMMIT): State.ANSWER_EXPECTED,
        (State.SENDING, _Event.NACK): State.IDLE,
        (State.ANSWER_EXPECTED, _Event.ACK): State.IDLE,
        (State.ANSWER_EXPECTED, _Event.NACK): State.IDLE,
    }
)


class ProtocolViolation(Exception):
    """The client said something that it may not say (now). Nothing was changed by it."""

    by = "client"

    def __init__(self, message: str, violations: tuple[FieldViolation, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.violations = violations
        """Fields that are invalid whatever the state; empty: the message came at the wrong time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long things may take, in seconds."""

    heartbeat_s: float = 10.0
    """Between two Heartbeats. The client answers each, so it also bounds how old `last seen` is."""
    hello_timeout_s: float = 10.0
    """From the start of the stream to its Hello."""
    answer_timeout_s: float = 120.0
    """From a Commit to the answer: checking a million entries takes the client about a minute."""
    silence_timeout_s: float = 60.0
    """Without any message: six Heartbeats that were not answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRequest:
    """The shell is to write the next chunk of this snapshot, then call `chunk_written`."""

    position: Position
    index: int
    """Chunks of it that were written."""
    after_name: str
    """Name of the last entry that was written; empty: none was."""


class Subscription:
    """The server's view of one stream.

    Invariants: `in_flight` is set exactly in SENDING and ANSWER_EXPECTED; it is never a rejected
    position; the revision of `head` only grows; the client's `serving` changes only to what was
    committed to it.
    """

    def __init__(self, *, head: Head, limits: Limits, now_s: float) -> None:
        self.state = State.HELLO_EXPECTED
        self.hello: pb.Hello | None = None
        self.progress = Progress()
        self.in_flight: Head | None = None
        self._head = head
        self._announced: Position | None = None
        """The head that the client was last told of by an Intent or a Heartbeat."""
        self._rejected: dict[Position, None] = {}
        self._entries_written = 0
        self._chunks_written = 0
        self._last_name = ""
        self._limits = limits
        self._goodbye: pb.Goodbye | None = None
        self._heard_s = now_s
        self._heartbeat_due_s = now_s + limits.heartbeat_s
        self._answer_due_s = float("inf")

    # -- what the control plane does ---------------------------------------------------------------

    def publish(self, head: Head) -> None:
        """Point to a newer head. While a snapshot is under way this is all that happens."""
        if head.position.revision > self._head.position.revision:
            self._head = head

    def recall(self, progress: Progress, *, same_instance: bool) -> None:
        """Take what was known of this data plane before the stream; called once, right after its
        Hello.

        What it rejected stays rejected for the same start of its agent. Another start speaks for
        itself: its disk may be new, its release or its settings may be others, and it knows what it
        has rejected.
        """
        if same_instance and progress.phase == pb.PHASE_REJECTED and progress.target is not None:
            self._reject(progress.target)
        if progress.target is None or not (progress.target == self.progress.serving or self.rejects(progress.target)):
            return
        serving = self.progress.serving
        with_errors = progress.with_errors and progress.serving == serving
        self.progress = replace(progress, serving=serving, with_errors=with_errors)

    def end(self, reason: str, *, reconnect_after_s: float) -> None:
        """Say Goodbye next, whatever is under way. The first reason counts."""
        if self._goodbye is None:
            whole_s = int(reconnect_after_s)
            after = duration_pb2.Duration(seconds=whole_s, nanos=int((reconnect_after_s - whole_s) * 1e9))
            self._goodbye = pb.Goodbye(reason=reason, reconnect_after=after)

    # -- what is asked of it -----------------------------------------------------------------------

    def rejects(self, position: Position) -> bool:
        """Whether the client has rejected `position`."""
        return position in self._rejected

    @property
    def settled(self) -> bool:
        """Whether the client has dealt with the head: it serves it or has rejected it."""
        position = self._head.position
        return self.in_flight is None and (position == self.progress.serving or self.rejects(position))

    @property
    def settled_revision(self) -> int | None:
        """The revision of the head, if `settled`; else None."""
        return self._head.position.revision if self.settled else None

    def overdue(self, now_s: float) -> str | None:
        """Why the stream has to end by now; None: it need not."""
        if self.state is State.HELLO_EXPECTED:
            return SILENT if now_s >= self._heard_s + self._limits.hello_timeout_s else None
        if self.state is State.CLOSED:
            return None
        if now_s >= self._answer_due_s:
            return ANSWER_TIMEOUT
        return SILENT if now_s >= self._heard_s + self._limits.silence_timeout_s else None

    def ending(self, now_s: float) -> bool:
        """Whether Goodbye is due."""
        return self._goodbye is not None or self.overdue(now_s) is not None

    @property
    def due_s(self) -> float:
        """When `take_output` will have something to say without anything else happening."""
        if self.state is State.HELLO_EXPECTED:
            return self._heard_s + self._limits.hello_timeout_s
        return min(self._heartbeat_due_s, self._answer_due_s, self._heard_s + self._limits.silence_timeout_s)

    # -- what is said to the client ----------------------------------------------------------------

    def take_output(self, now_s: float) -> pb.SyncResponse | ChunkRequest | None:
        """What to write next; None: nothing for now. What it returns counts as written."""
        if self.state is State.CLOSED:
            return None
        overdue = self.overdue(now_s)
        if overdue is not None:
            self.end(overdue, reconnect_after_s=1.0)
        if self._goodbye is not None:
            self.state = State.CLOSED
            self.in_flight = None
            return pb.SyncResponse(goodbye=self._goodbye)
        if self.state is State.HELLO_EXPECTED:
            return None
        if now_s >= self._heartbeat_due_s:
            return self._heartbeat(now_s)
        if self.state is State.SENDING:
            return self._continue_sending(now_s)
        if self.state is State.IDLE and self._announced != self._head.position:
            return self._announce(now_s)
        return None

    def chunk_written(self, chunk: pb.Chunk) -> None:
        """The chunk that was asked for has been written."""
        if self.state is State.SENDING:
            self._entries_written += len(chunk.entries)
            self._chunks_written += 1
            self._last_name = chunk.entries[-1].ref.name

    def _heartbeat(self, now_s: float) -> pb.SyncResponse:
        self._heartbeat_due_s = now_s + self._limits.heartbeat_s
        return pb.SyncResponse(heartbeat=pb.Heartbeat(head=position_to_proto(self._head.position)))

    def _announce(self, now_s: float) -> pb.SyncResponse:
        head = self._head
        to = position_to_proto(head.position)
        self._announced = head.position
        if self.rejects(head.position):
            return self._heartbeat(now_s)
        if head.position == self.progress.serving:
            return pb.SyncResponse(intent=pb.Intent(mode=pb.Intent.MODE_NONE, to=to, entry_count=head.entry_count))
        self._move(_Event.INTENT_FULL)
        self.in_flight = head
        self._entries_written, self._chunks_written, self._last_name = 0, 0, ""
        return pb.SyncResponse(intent=pb.Intent(mode=pb.Intent.MODE_FULL, to=to, entry_count=head.entry_count))

    def _continue_sending(self, now_s: float) -> pb.SyncResponse | ChunkRequest:
        head = self._sent()
        if self._entries_written < head.entry_count:
            return ChunkRequest(position=head.position, index=self._chunks_written, after_name=self._last_name)
        self._move(_Event.COMMIT)
        self._answer_due_s = now_s + self._limits.answer_timeout_s
        return pb.SyncResponse(commit=pb.Commit(to=position_to_proto(head.position)))

    # -- what the client says ----------------------------------------------------------------------

    def receive(self, request: pb.SyncRequest, now_s: float) -> ResourceChange:
        """Take a message.

        Raises:
            ProtocolViolation: the client may not say that (now). Nothing was changed.
        """
        violations = violations_of(request)
        if violations:
            raise ProtocolViolation("the message is invalid", violations)
        if request.WhichOneof("message") == "hello":
            self._receive_hello(request.hello)
            change = NO_CHANGE
        else:
            change = self._receive_status(request.status)
        self._heard_s = now_s
        return change

    def _receive_hello(self, hello: pb.Hello) -> None:
        if self.state is not State.HELLO_EXPECTED:
            _refuse("Hello came twice")
        serving = _position("hello.have", hello.have) if hello.HasField("have") else None
        rejected = [_position("hello.rejected", position) for position in hello.rejected]
        if serving in rejected:
            _refuse("Hello lists what it serves as rejected", "hello.rejected")
        self._move(_Event.HELLO)
        self.hello = hello
        for position in rejected:
            self._reject(position)
        phase = pb.PHASE_ACTIVE if serving else pb.PHASE_UNSPECIFIED
        self.progress = Progress(serving=serving, target=serving, phase=phase)

    def _receive_status(self, status: pb.Status) -> ResourceChange:
        if self.state is State.HELLO_EXPECTED:
            _refuse("the first message must be Hello", "hello")
        if self.state is State.CLOSED:
            _refuse("a Status came after Goodbye")
        serving = _position("status.serving", status.serving) if status.HasField("serving") else None
        for resource in status.resources:
            _check_resource(resource)
        if status.HasField("target"):
            self._receive_progress(_position("status.target", status.target), serving, status)
        else:
            if status.phase != pb.PHASE_UNSPECIFIED:
                _refuse("a phase came without its target", "status.phase")
            self._require_serving(serving, self.progress.serving)
        if not (status.replace or status.resources or status.removed):
            return NO_CHANGE
        return ResourceChange(replace=status.replace, updated=tuple(status.resources), removed=tuple(status.removed))

    def _receive_progress(self, target: Position, serving: Position | None, status: pb.Status) -> None:
        in_flight = self.in_flight is not None and target == self.in_flight.position
        phase = status.phase
        if phase in (pb.PHASE_ACTIVE, pb.PHASE_ACTIVE_WITH_ERRORS):
            self._require_serving(serving, target)
            if in_flight and self.state is not State.ANSWER_EXPECTED:
                _refuse("a snapshot came into service before its Commit", "status.phase")
            if not in_flight and target != self.progress.serving:
                _refuse("a snapshot came into service that is not under way", "status.target")
        elif phase == pb.PHASE_REJECTED:
            self._require_serving(serving, self.progress.serving)
            if _REASON.fullmatch(status.reason) is None:
                _refuse("a rejection needs an UPPER_SNAKE reason", "status.reason")
            if not in_flight and not self.rejects(target):
                _refuse("a snapshot was rejected that is not under way", "status.target")
        else:
            self._require_serving(serving, self.progress.serving)
            self._require_advance(target, phase, in_flight=in_flight)
        self._apply_progress(target, status, in_flight=in_flight)

    def _require_serving(self, got: Position | None, expected: Position | None) -> None:
        if got != expected:
            _refuse(f"it serves {_describe(got)}, expected was {_describe(expected)}", "status.serving")

    def _require_advance(self, target: Position, phase: pb.Phase.ValueType, *, in_flight: bool) -> None:
        if phase == pb.PHASE_UNSPECIFIED:
            _refuse("a target came without its phase", "status.phase")
        if not in_flight or self.state is not State.ANSWER_EXPECTED:
            _refuse("a phase came of a snapshot that was not committed", "status.target")
        if target == self.progress.target and phase < self.progress.phase:
            _refuse("a phase came after a later one", "status.phase")

    def _apply_progress(self, target: Position, status: pb.Status, *, in_flight: bool) -> None:
        phase = status.phase
        with_errors = self.progress.with_errors
        serving = self.progress.serving
        if phase in (pb.PHASE_ACTIVE, pb.PHASE_ACTIVE_WITH_ERRORS):
            serving, with_errors = target, phase == pb.PHASE_ACTIVE_WITH_ERRORS
            if in_flight:
                self._answered(_Event.ACK)
        elif phase == pb.PHASE_REJECTED:
            self._reject(target)
            if in_flight:
                self._answered(_Event.NACK)
        rejected = phase == pb.PHASE_REJECTED
        self.progress = Progress(
            serving=serving,
            target=target,
            phase=phase,
            reason=status.reason if rejected else "",
            message=status.message if rejected else "",
            with_errors=with_errors,
        )

    def _answered(self, event: _Event) -> None:
        self._move(event)
        self.in_flight = None
        self._answer_due_s = float("inf")

    def _reject(self, position: Position) -> None:
        self._rejected[position] = None
        while len(self._rejected) > REJECTED_MAX:
            self._rejected.pop(next(iter(self._rejected)))

    def _move(self, event: _Event) -> None:
        self.state = _TRANSITIONS[self.state, event]

    def _sent(self) -> Head:
        assert self.in_flight is not None, "SENDING has a snapshot in flight"
        return self.in_flight


def _position(field: str, message: snapshot_pb2.Position) -> Position:
    position = position_from_proto(message)
    if not 1 <= len(position.store_uid) <= 64:
        _refuse("a position needs the uid of its store, 1 to 64 characters", f"{field}.store_uid")
    if position.revision < 0:
        _refuse(f"got {position.revision}: a revision is 0 or more", f"{field}.revision")
    if len(position.digest) != _DIGEST_BYTES:
        _refuse(f"got {len(position.digest)} bytes: a digest has {_DIGEST_BYTES}", f"{field}.digest")
    return position


def _check_resource(resource: status_pb2.ResourceStatus) -> None:
    if not 1 <= len(resource.name) <= _NAME_CHARACTERS_MAX:
        _refuse(f"a name has 1 to {_NAME_CHARACTERS_MAX} characters", "status.resources.name")
    for field, text in (
        ("reason", resource.reason),
        ("message", resource.message),
        ("application", resource.application),
    ):
        if len(text) > _TEXT_CHARACTERS_MAX:
            _refuse(f"got {len(text)} characters: allowed are {_TEXT_CHARACTERS_MAX}", f"status.resources.{field}")


def _describe(position: Position | None) -> str:
    return "nothing" if position is None else f"{position.store_uid}@{position.revision}#{position.digest.hex()[:12]}"


def _refuse(message: str, field: str = "") -> NoReturn:
    violations = (FieldViolation(field=field, description=message),) if field else ()
    raise ProtocolViolation(message, violations)
