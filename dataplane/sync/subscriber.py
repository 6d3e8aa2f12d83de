"""The data plane's end of the Sync stream as a state machine: what it makes of messages, and what
it says next. Pure.

The shell (`sync_client.py`) feeds it what arrives (`receive`), what the agent decided about a
snapshot (`decided`) and which states resources are in (`report`), and writes what `take_message`
returns. It outlives streams: `open` and `close` begin and end one.

    state       message            next
    CLOSED      (open)             IDLE
    IDLE        Intent NONE        IDLE
    IDLE        Intent FULL        RECEIVING, or DISCARDING when its position is refused
    RECEIVING   Chunk              RECEIVING, or DISCARDING when a limit is passed
    RECEIVING   Commit             DECIDING, or IDLE when something is missing
    DISCARDING  Chunk              DISCARDING        what was written before the refusal arrived
    DISCARDING  Commit             IDLE
    DISCARDING  Intent             as from IDLE
    DECIDING    (decided)          IDLE
    any         Heartbeat          the same
    any         Goodbye, (close)   CLOSED

An illegal message raises `ProtocolViolation` and changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from dataplane.snapshot.assembler import Assembler
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.position_check import describe, refuse_position
from dataplane.snapshot.rejection import STORE_UID_MISMATCH, Rejection
from dataplane.snapshot.snapshot import Position, RawEntry

REJECTED_MAX = 16
"""Rejected positions that are remembered, the newest; a Hello lists no more."""

RESOURCES_PER_STATUS_MAX = 1000
STATUS_BYTES_MAX = 1024 * 1024
"""Resources in one Status, by number and by bytes: the server takes 4 MiB, and 1000 engine errors
can be more."""

TEXT_CHARACTERS_MAX = 4096
"""The words of an engine may be many; the server refuses more than this."""


class State(enum.Enum):
    """Where the stream is."""

    CLOSED = "CLOSED"
    IDLE = "IDLE"
    RECEIVING = "RECEIVING"
    """Intent has come, and Commit has not."""
    DISCARDING = "DISCARDING"
    """The announced snapshot is refused already; the rest of it is dropped."""
    DECIDING = "DECIDING"
    """All of a snapshot has come; the agent checks it and puts it into service."""


class ProtocolViolation(Exception):
    """The control plane said something that it may not say (now). Nothing was changed by it."""

    by = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this data plane is."""

    data_plane: str
    """Its id."""
    instance_uid: str
    """Differs for each start of the agent."""
    http_address: str = ""
    """Where its OpenAI API is. For people to read."""
    software_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A snapshot is in service."""

    with_errors: bool
    """Entries of it are quarantined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A snapshot that was refused as a whole."""

    position: Position
    reason: str
    """UPPER_SNAKE."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """All of a snapshot has come; the shell has it decided, then calls `decided`."""

    position: Position
    entries: tuple[RawEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A snapshot was refused before all of it had come; there is nothing to decide."""

    rejected: Rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The control plane said Goodbye."""

    reason: str
    reconnect_after_s: float


Event = Candidate | Refused | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fact:
    """Something to tell about a snapshot. `serving` is of the moment when it became true."""

    target: Position
    serving: Position | None
    phase: pb.Phase.ValueType
    reason: str = ""
    message: str = ""


class Subscriber:
    """The client's end of the protocol.

    Invariants: `serving` never moves backwards within a store; it changes in `decided` only; at
    most REJECTED_MAX positions are remembered; at most four facts and one state per resource wait
    to be told.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        policy: Policy,
        serving: Position | None,
        with_errors: bool = False,
        rejected: Iterable[Rejected] = (),
    ) -> None:
        self.state = State.CLOSED
        self.serving = serving
        self.with_errors = with_errors
        self.head: Position | None = None
        """The newest snapshot that the control plane told of."""
        self._identity = identity
        self._policy = policy
        self._rejected: dict[Position, Rejected] = {}
        for one in rejected:
            # What was refused only for its store is welcome once an operator allows another store.
            if one.position != serving and not (policy.allow_new_store and one.reason == STORE_UID_MISMATCH):
                self._remember(one)
        self._assembler: Assembler | None = None
        self._deciding: Position | None = None
        self._hello_due = False
        self._replace_due = False
        self._pong_due = False
        self._facts: list[_Fact] = []
        self._resources: dict[str, status_pb2.ResourceStatus] = {}
        self._told: dict[str, status_pb2.ResourceStatus] = {}
        self._changed: dict[str, None] = {}
        self._gone: dict[str, None] = {}

    @property
    def deciding(self) -> bool:
        """Whether a snapshot waits for the agent's decision. While it does, no stream may be
        opened."""
        return self._deciding is not None

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """What is remembered as rejected, the oldest first."""
        return tuple(self._rejected.values())

    # -- streams -----------------------------------------------------------------------------------

    def open(self) -> None:
        """A stream begins: Hello is due, then everything anew."""
        assert self.state is State.CLOSED, "one stream at a time"
        assert self._deciding is None, "what is served must be known in Hello"
        self.state = State.IDLE
        self._hello_due, self._replace_due, self._pong_due = True, True, False
        self._told = {}
        self._compare()
        self._facts = []
        if self.serving is not None:
            phase = pb.PHASE_ACTIVE_WITH_ERRORS if self.with_errors else pb.PHASE_ACTIVE
            self._facts.append(_Fact(target=self.serving, serving=self.serving, phase=phase))
        newest = next(reversed(self._rejected.values()), None)
        if newest is not None and not self._overtaken(newest.position):
            self._facts.append(self._refusal(newest))

    def close(self) -> None:
        """The stream is gone. A decision that is under way goes on."""
        self.state = State.CLOSED
        self._assembler = None

    def _overtaken(self, position: Position) -> bool:
        serving = self.serving
        return serving is not None and position.store_uid == serving.store_uid and position.revision < serving.revision

    # -- what the control plane says ---------------------------------------------------------------

    def receive(self, response: pb.SyncResponse) -> Event | None:
        """Take a message.

        Raises:
            ProtocolViolation: the control plane may not say that (now). Nothing was changed.
        """
        assert self.state is not State.CLOSED, "no stream is open"
        kind = response.WhichOneof("message")
        if kind == "intent":
            return self._receive_intent(response.intent)
        if kind == "chunk":
            return self._receive_chunk(response.chunk)
        if kind == "commit":
            return self._receive_commit(response.commit)
        if kind == "heartbeat":
            self.head = Position.from_proto(response.heartbeat.head)
            self._pong_due = True
            return None
        if kind == "goodbye":
            self.close()
            after = response.goodbye.reconnect_after
            return Ended(reason=response.goodbye.reason, reconnect_after_s=after.seconds + after.nanos / 1e9)
        _refuse("an empty message, or one that this release does not know")

    def _receive_intent(self, intent: pb.Intent) -> Event | None:
        if self.state not in (State.IDLE, State.DISCARDING):
            _refuse(f"an Intent came in state {self.state.value}")
        position = Position.from_proto(intent.to)
        if intent.mode == pb.Intent.MODE_NONE:
            if position != self.serving:
                _refuse("an Intent says that nothing is new, but of a snapshot that is not the one in service")
            self.state = State.IDLE
            self.head = position
            return None
        if intent.mode != pb.Intent.MODE_FULL:
            _refuse(f"an Intent has mode {intent.mode}, which this release does not know")
        self.head = position
        assembler = Assembler(position, intent.entry_count, self._policy.limits)
        known = self._rejected.get(position)
        rejection = (
            Rejection(reason=known.reason, message=known.message)
            if known is not None
            else refuse_position(position, self.serving, allow_new_store=self._policy.allow_new_store)
            or assembler.refuse_announcement()
        )
        if rejection is not None:
            return self._refuse_early(position, rejection)
        self.state = State.RECEIVING
        self._assembler = assembler
        return None

    def _receive_chunk(self, chunk: pb.Chunk) -> Event | None:
        if self.state is State.DISCARDING:
            return None
        if self.state is not State.RECEIVING or self._assembler is None:
            _refuse(f"a Chunk came in state {self.state.value}")
        rejection = self._assembler.add(chunk.entries)
        return None if rejection is None else self._refuse_early(self._assembler.position, rejection)

    def _receive_commit(self, commit: pb.Commit) -> Event | None:
        if self.state is State.DISCARDING:
            self.state = State.IDLE
            return None
        if self.state is not State.RECEIVING or self._assembler is None:
            _refuse(f"a Commit came in state {self.state.value}")
        position = self._assembler.position
        if Position.from_proto(commit.to) != position:
            _refuse("a Commit came of another snapshot than was announced")
        entries = self._assembler.complete()
        self._assembler = None
        if isinstance(entries, Rejection):
            event = self._refuse_early(position, entries)
            self.state = State.IDLE
            return event
        self.state = State.DECIDING
        self._deciding = position
        self._facts.append(_Fact(target=position, serving=self.serving, phase=pb.PHASE_RECEIVED))
        return Candidate(position=position, entries=entries)

    def _refuse_early(self, position: Position, rejection: Rejection) -> Refused:
        self.state = State.DISCARDING
        self._assembler = None
        rejected = Rejected(position=position, reason=rejection.reason, message=rejection.message)
        self._remember(rejected)
        self._facts.append(self._refusal(rejected))
        return Refused(rejected=rejected)

    # -- what the agent says -----------------------------------------------------------------------

    def decided(self, outcome: Accepted | Rejection) -> Rejected | None:
        """The agent's decision about the Candidate. Returns what is to be remembered as rejected,
        if it is."""
        position = self._deciding
        assert position is not None, "there is nothing to decide"
        self._deciding = None
        self._facts = [fact for fact in self._facts if fact.target != position]
        rejected = None
        if isinstance(outcome, Accepted):
            self.serving, self.with_errors = position, outcome.with_errors
            self._rejected.pop(position, None)
            phase = pb.PHASE_ACTIVE_WITH_ERRORS if outcome.with_errors else pb.PHASE_ACTIVE
            fact = _Fact(target=position, serving=position, phase=phase)
        else:
            rejected = Rejected(position=position, reason=outcome.reason, message=outcome.message)
            self._remember(rejected)
            fact = self._refusal(rejected)
        if self.state is State.DECIDING:
            self.state = State.IDLE
            self._facts.append(fact)
        return rejected

    def report(self, resources: Mapping[str, status_pb2.ResourceStatus]) -> None:
        """The states that hold now, of all resources worth telling, by resource name. The messages
        are not changed any more by the caller. What differs from what was told is told next; states
        in between are left out.
        """
        self._resources = dict(resources)
        self._compare()

    def _compare(self) -> None:
        told = self._told
        self._changed = {
            name: None
            for name, status in self._resources.items()
            # What has not changed is mostly the same message, and there may be thousands.
            if (known := told.get(name)) is not status and (known is None or known != status)
        }
        self._gone = {name: None for name in told if name not in self._resources}

    def _remember(self, rejected: Rejected) -> None:
        self._rejected.pop(rejected.position, None)
        self._rejected[rejected.position] = rejected
        while len(self._rejected) > REJECTED_MAX:
            self._rejected.pop(next(iter(self._rejected)))

    def _refusal(self, rejected: Rejected) -> _Fact:
        return _Fact(
            target=rejected.position,
            serving=self.serving,
            phase=pb.PHASE_REJECTED,
            reason=rejected.reason,
            message=rejected.message[:TEXT_CHARACTERS_MAX],
        )

    # -- what is said to the control plane ---------------------------------------------------------

    def take_message(self) -> pb.SyncRequest | None:
        """What to write next; None: nothing for now. What it returns counts as written."""
        if self.state is State.CLOSED:
            return None
        if self._hello_due:
            self._hello_due = False
            return pb.SyncRequest(hello=self._hello())
        if not (self._facts or self._replace_due or self._changed or self._gone or self._pong_due):
            return None
        status = pb.Status(replace=self._replace_due)
        if self._facts:
            fact = self._facts.pop(0)
            status.target.CopyFrom(fact.target.to_proto())
            status.phase, status.reason, status.message = fact.phase, fact.reason, fact.message
            serving = fact.serving
        else:
            serving = self.serving
        if serving is not None:
            status.serving.CopyFrom(serving.to_proto())
        if self._replace_due or not status.HasField("target"):
            self._take_resources(status)
        self._replace_due = self._pong_due = False
        return pb.SyncRequest(status=status)

    def _take_resources(self, status: pb.Status) -> None:
        size = 0
        while self._changed and len(status.resources) < RESOURCES_PER_STATUS_MAX and size < STATUS_BYTES_MAX:
            name = next(iter(self._changed))
            del self._changed[name]
            self._told[name] = self._resources[name]
            resource = _shortened(self._resources[name])
            status.resources.append(resource)
            size += resource.ByteSize()
        while self._gone and len(status.removed) < RESOURCES_PER_STATUS_MAX:
            name = next(iter(self._gone))
            del self._gone[name]
            del self._told[name]
            status.removed.append(name)

    def _hello(self) -> pb.Hello:
        identity = self._identity
        return pb.Hello(
            data_plane=identity.data_plane,
            instance_uid=identity.instance_uid,
            have=self.serving.to_proto() if self.serving is not None else None,
            rejected=[position.to_proto() for position in self._rejected],
            http_address=identity.http_address,
            software_version=identity.software_version,
        )


def _shortened(resource: status_pb2.ResourceStatus) -> status_pb2.ResourceStatus:
    if len(resource.message) <= TEXT_CHARACTERS_MAX:
        return resource
    copy = status_pb2.ResourceStatus()
    copy.CopyFrom(resource)
    # Engines put the cause at the end of what they print.
    copy.message = "…" + resource.message[-(TEXT_CHARACTERS_MAX - 1) :]
    return copy


def _refuse(message: str) -> NoReturn:
    raise ProtocolViolation(message)


def explain(rejected: Rejected) -> str:
    """`rejected` for a log line."""
    return f"{describe(rejected.position)}: {rejected.reason}: {rejected.message}"
