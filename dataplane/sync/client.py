"""The Sync stream of a data plane: connects, reconnects, and moves messages between gRPC and
`subscriber`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import grpc
import grpc.aio
import structlog

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from broadsheet.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, RawEntry
from dataplane.sync.events import Accepted, Candidate, Ended, Identity, Refused, Rejected
from dataplane.sync.subscriber import Subscriber
from dataplane.sync.transitions import ProtocolViolation
from protocol.transport.credentials import Credentials

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A peer that vanished without a word is noticed after half a minute. The server allows a ping
    # every 10 s.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Without a pool of its own a new channel would inherit the connection backoff of the one
    # before, on top of ours.
    ("grpc.use_local_subchannel_pool", 1),
    # A chunk is 1 MiB and a blob of up to 1 MiB.
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
)

DECISION_FAILED = "DECISION_FAILED"
"""Reason of a rejection: the agent itself failed while it was putting the snapshot into service."""

_log = structlog.get_logger("dataplane.sync")


class Handlers(Protocol):
    """What the agent does with what comes. Called one at a time, in order."""

    async def on_snapshot(self, position: Position, entries: Sequence[RawEntry]) -> Accepted | Rejection:
        """Check the snapshot and put it into service, or refuse it.

        Not cancelled when the stream ends: the stream is opened again only after it has answered.
        Must not block the event loop. An exception counts as a rejection of DECISION_FAILED.
        """

    async def on_rejected(self, rejected: Rejected) -> None:
        """A snapshot was rejected, by `on_snapshot` or before it came that far: remember it across
        restarts."""

    def on_connection(self, connection: Connection) -> None:
        """The connection changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How it stands with the control plane."""

    connected: bool = False
    """It has answered on the present stream."""
    failures: int = 0
    """Streams that ended before they had lived long enough to count as good, since the last good
    one."""
    last_error: str = ""
    """Why the last stream ended. For operators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long things may take, in seconds."""

    heartbeat_s: float = 10.0
    """Between Heartbeats of the control plane."""
    missed_heartbeats_max: int = 3
    """Without any message for this many: the stream is dead."""
    backoff_base_s: float = 0.2
    backoff_cap_s: float = 15.0
    """Before try n the wait is random between 0 and min(cap, base * 2**n): "full jitter" of Marc
    Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015)."""
    reconnect_after_max_s: float = 300.0
    """A Goodbye may ask for no longer wait than this."""
    good_stream_s: float = 15.0
    """A stream that lived this long resets the backoff."""


Metadata = tuple[tuple[str, str], ...]


def insecure_channel(target: str) -> grpc.aio.Channel:
    """A channel without TLS. To be called inside the running event loop, and never before a
    fork."""
    return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)


def channel(credentials: Credentials, target: str) -> grpc.aio.Channel:
    """A channel with or without TLS, as the credentials say. To be called as `insecure_channel`.

    Raises:
        CredentialsError: a file cannot be read.
    """
    tls = credentials.channel_credentials(target)
    return insecure_channel(target) if tls is None else grpc.aio.secure_channel(target, tls, options=CHANNEL_OPTIONS)


class SyncClient:
    """Keeps one Sync stream open for as long as `run` runs."""

    def __init__(
        self,
        target: str,
        *,
        identity: Identity,
        policy: Policy,
        handlers: Handlers,
        serving: Position | None,
        with_errors: bool = False,
        rejected: Iterable[Rejected] = (),
        open_channel: Callable[[str], grpc.aio.Channel] = insecure_channel,
        metadata: Callable[[], Metadata] = tuple,
        timing: Timing | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """
        Args:
            target: Address of the control plane, `host:port`.
            identity: Who this data plane is.
            policy: The same that `accept` is called with.
            handlers: What the agent does with what comes.
            serving: The snapshot that was found on disk and is in service; None: none.
            with_errors: Entries of it are quarantined.
            rejected: What was rejected before, the oldest first.
            open_channel: Makes a channel to `target`; called inside the running loop, once per
                stream. It raises ValueError when a file that it needs cannot be read.
            metadata: What goes with each stream, such as a token; called once per stream. It raises
            ValueError too.
            timing: How long things may take.
            uniform: Randomness of the backoff.
        """
        self._target = target
        self._handlers = handlers
        self._open_channel = open_channel
        self._metadata = metadata
        self._timing = timing or Timing()
        self._uniform = uniform
        self._subscriber = Subscriber(
            identity, policy=policy, serving=serving, with_errors=with_errors, rejected=rejected
        )
        self._connection = Connection()
        self._output_due = asyncio.Event()
        self._undecided: asyncio.Queue[Candidate | Rejected] = asyncio.Queue()
        """Holds one thing at most: no snapshot may come before the one here is answered, and
        reading stops for a rejection until it is remembered."""
        self._nothing_to_decide = asyncio.Event()
        self._nothing_to_decide.set()
        self._messages_received = 0

    @property
    def connection(self) -> Connection:
        """How it stands with the control plane."""
        return self._connection

    @property
    def head(self) -> Position | None:
        """The newest snapshot that the control plane told of."""
        return self._subscriber.head

    def report(self, resources: Mapping[str, status_pb2.ResourceStatus]) -> None:
        """Tell the states that hold now: of every model, and of each adapter that is not simply
        IDLE, by resource name.

        Only what changed is sent, and only the newest state of it. The messages are not to be
        changed any more.
        """
        self._subscriber.report(resources)
        self._output_due.set()

    async def run(self) -> None:
        """Connect, and connect again whenever a stream ends. Ends by being cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._decide())
            group.create_task(self._keep_connected())

    # -- streams -----------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # What is in service must be known for Hello.
            await self._nothing_to_decide.wait()
            started_s = loop.time()
            ended = await self._run_stream()
            good = loop.time() - started_s >= self._timing.good_stream_s
            failures = 0 if good else self._connection.failures + 1
            wait_s = self._wait_s(failures, ended)
            self._set_connection(Connection(failures=failures, last_error=ended.reason))
            _log.info("sync_stream_ended", target=self._target, reason=ended.reason, retry_in_s=round(wait_s, 3))
            await asyncio.sleep(wait_s)

    def _wait_s(self, failures: int, ended: Ended) -> float:
        timing = self._timing
        # The exponent is bounded before the power is taken: 2.0 ** 1024 overflows after some hours
        # of failures.
        ceiling_s = min(timing.backoff_cap_s, timing.backoff_base_s * 2.0 ** min(failures, 32))
        asked_s = min(max(ended.reconnect_after_s, 0.0), timing.reconnect_after_max_s)
        return asked_s + self._uniform(0.0, ceiling_s)

    async def _run_stream(self) -> Ended:
        """One stream, from Hello to its end, however it ends."""
        try:
            metadata = self._metadata()
            channel = self._open_channel(self._target)
        except ValueError as error:
            return Ended(reason=f"CREDENTIALS: {error}", reconnect_after_s=0.0)
        try:
            call = SnapshotServiceStub(channel).Sync(metadata=metadata)
            self._subscriber.open()
            try:
                return await self._talk(call)
            except grpc.aio.AioRpcError as error:
                return Ended(reason=f"{error.code().name}: {error.details()}", reconnect_after_s=0.0)
            except ProtocolViolation as error:
                _log.error("sync_protocol_violation", target=self._target, by=error.by, error=str(error))
                return Ended(reason=f"PROTOCOL_VIOLATION: {error}", reconnect_after_s=0.0)
            finally:
                self._subscriber.close()
                call.cancel()
        finally:
            # Cancelling the stream does not close the connection; a leaked channel keeps its
            # threads and sockets.
            await channel.close()

    async def _talk(self, call: SyncCall) -> Ended:
        tasks: list[asyncio.Task[Ended]] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._read(call)),
                    group.create_task(self._write(call)),
                    group.create_task(self._watch()),
                ]
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as group_error:
            raise _first(group_error) from None
        return next(task for task in tasks if task in done).result()

    async def _read(self, call: SyncCall) -> Ended:
        while True:
            response = await call.read()
            if not isinstance(response, pb.SyncResponse):  # EOF
                return await _outcome(call)
            self._messages_received += 1
            event = self._subscriber.receive(response)
            if not self._connection.connected:
                self._set_connection(replace(self._connection, connected=True))
                _log.info("sync_connected", target=self._target)
            self._output_due.set()
            if isinstance(event, Ended):
                return replace(event, reason=f"GOODBYE: {event.reason}")
            if isinstance(event, Candidate):
                self._nothing_to_decide.clear()
                self._undecided.put_nowait(event)
            elif isinstance(event, Refused):
                self._undecided.put_nowait(event.rejected)
                await self._undecided.join()

    async def _write(self, call: SyncCall) -> Ended:
        while True:
            self._output_due.clear()
            while (message := self._subscriber.take_message()) is not None:
                try:
                    await call.write(message)
                except asyncio.InvalidStateError:
                    # grpc.aio's word for "the call is over already"; the reader may not have seen
                    # it yet.
                    return await _outcome(call)
            await self._output_due.wait()

    async def _watch(self) -> Ended:
        """Notices a stream on which nothing comes any more. Reads are never given a timeout: in
        grpc.aio that cancels the whole call. Counting intervals, not time, forgives an event loop
        that was busy.
        """
        missed = 0
        seen = self._messages_received
        while missed < self._timing.missed_heartbeats_max:
            await asyncio.sleep(self._timing.heartbeat_s)
            missed = missed + 1 if seen == self._messages_received else 0
            seen = self._messages_received
        silent_s = missed * self._timing.heartbeat_s
        return Ended(reason=f"SILENT: nothing came for {silent_s:g} s", reconnect_after_s=0.0)

    def _set_connection(self, connection: Connection) -> None:
        self._connection = connection
        self._handlers.on_connection(connection)

    # -- decisions ---------------------------------------------------------------------------------

    async def _decide(self) -> None:
        while True:
            undecided = await self._undecided.get()
            if isinstance(undecided, Rejected):
                await self._remember(undecided)
            else:
                rejected = self._subscriber.decided(await self._ask(undecided))
                self._output_due.set()
                self._nothing_to_decide.set()
                if rejected is not None:
                    await self._remember(rejected)
            self._undecided.task_done()

    async def _ask(self, candidate: Candidate) -> Accepted | Rejection:
        try:
            return await self._handlers.on_snapshot(candidate.position, candidate.entries)
        except Exception as error:
            # The previous snapshot goes on serving; the fault is shown in the fleet, and in full
            # here.
            _log.exception("snapshot_decision_failed", revision=candidate.position.revision)
            return Rejection(reason=DECISION_FAILED, message=f"the agent failed ({type(error).__name__}); see its log")

    async def _remember(self, rejected: Rejected) -> None:
        _log.warning(
            "snapshot_rejected",
            revision=rejected.position.revision,
            store_uid=rejected.position.store_uid,
            reason=rejected.reason,
            error=rejected.message,
        )
        try:
            await self._handlers.on_rejected(rejected)
        except Exception:
            # It is remembered in memory, and so for as long as this agent lives.
            _log.exception("rejection_not_remembered", revision=rejected.position.revision)


SyncCall = grpc.aio.StreamStreamCall[pb.SyncRequest, pb.SyncResponse]


async def _outcome(call: SyncCall) -> Ended:
    code = await call.code()
    return Ended(reason=f"{code.name}: {await call.details() or 'the stream ended'}", reconnect_after_s=0.0)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception of a group: the tasks of a stream fail for one cause, and their siblings
    with it."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
