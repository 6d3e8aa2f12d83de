"""Keeps a Sync stream to the control plane, and moves messages between gRPC and `subscriber`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import grpc
import grpc.aio
import structlog

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from broadsheet.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from dataplane.snapshot.change import Change
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, RawEntry
from dataplane.sync.channel import Metadata, insecure_channel
from dataplane.sync.events import Accepted, Candidate, Diverged, Ended, Identity, Refused, Rejected
from dataplane.sync.revocations.stream import RevocationStream
from dataplane.sync.stream.batches import messages_of
from dataplane.sync.stream.reconnecting import Connection, Timing, asked_wait_s, backoff_max_s
from dataplane.sync.subscriber import Subscriber
from dataplane.sync.transitions import ProtocolViolation
from protocol.signing.heads import signed_head_of

DECISION_FAILED = "DECISION_FAILED"
"""Reason of a rejection: the agent failed while it put the snapshot into service."""

_log = structlog.get_logger("dataplane.sync")


class Handlers(Protocol):
    """The agent's part. The methods are called one at a time, in order."""

    async def on_snapshot(
        self, position: Position, entries: Sequence[RawEntry], signed_head: bytes
    ) -> Accepted | Rejection:
        """Check the snapshot and put it into service, or refuse it.

        It is not cancelled when the stream ends: the next stream begins after it has returned. It
        must not block the event loop. An exception counts as a rejection with DECISION_FAILED.
        `signed_head` is the serialised SignedHead that was announced, or empty.
        """

    async def on_change(
        self, position: Position, change: Change, signed_head: bytes
    ) -> Accepted | Rejection | Diverged:
        """Do the same with the snapshot in service and what differs from it."""

    def held_entries(self) -> Iterable[RawEntry]:
        """The entries of the snapshot in service, ordered by name; empty: there is none."""

    async def on_rejected(self, rejected: Rejected) -> None:
        """Remember across restarts that a snapshot was rejected, here or before."""

    def on_connection(self, connection: Connection) -> None:
        """The connection changed."""

    @property
    def revocations(self) -> RevocationStream:
        """Where revocations go, and what is said of them. Always the same."""


async def _no_metadata() -> Metadata:
    return ()


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
        warning: str = "",
        rejected: Iterable[Rejected] = (),
        open_channel: Callable[[str], grpc.aio.Channel] = insecure_channel,
        metadata: Callable[[], Awaitable[Metadata]] = _no_metadata,
        timing: Timing | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """
        Args:
            target: Address of the control plane, `host:port`.
            identity: Who this data plane is.
            policy: The policy that `accept` is called with.
            handlers: The agent's part.
            serving: The snapshot that was found on disk and is in service; None if there is none.
            with_errors: Whether entries of it are quarantined.
            warning: What operators must know of it, reported with ACTIVE.
            rejected: Snapshots that were rejected before, the oldest first.
            open_channel: Opens a channel to `target`. Called inside the running loop, once per
                stream. Raises ValueError when a file that it needs cannot be read.
            metadata: Finds the metadata of a stream, such as a token. Called once per stream.
                Raises ValueError as `open_channel` does.
            timing: Intervals and timeouts.
            uniform: Randomness of the backoff: `random.uniform`.
        """
        self._target = target
        self._handlers = handlers
        self._open_channel = open_channel
        self._metadata = metadata
        self._timing = timing or Timing()
        self._uniform = uniform
        self._subscriber = Subscriber(
            identity,
            policy=policy,
            serving=serving,
            with_errors=with_errors,
            warning=warning,
            rejected=rejected,
            held=handlers.held_entries,
        )
        self._connection = Connection()
        self._output_due = asyncio.Event()
        self._pending: asyncio.Queue[Candidate | Rejected] = asyncio.Queue()
        """Holds one item at most: no snapshot arrives before the pending one is decided, and
        reading stops until a rejection is remembered."""
        self._decided = asyncio.Event()
        self._decided.set()
        self._hello_outdated = asyncio.Event()
        """The stream ends, because a new Hello says something else."""
        self._messages_received = 0
        self.renewed_head = b""
        """The serialised SignedHead that came last for the snapshot in service. Empty: none did."""

    @property
    def connection(self) -> Connection:
        """The state of the connection to the control plane."""
        return self._connection

    @property
    def head(self) -> Position | None:
        """The newest snapshot that the control plane has announced."""
        return self._subscriber.head

    def report(self, resources: Mapping[str, status_pb2.ResourceStatus], traffic: pb.Traffic | None = None) -> None:
        """Report the current states of models and adapters, by resource name.

        Every model is included, and every adapter that is not IDLE. Only changes are sent, and only
        the newest state of each resource. The caller must not change the messages later. `traffic`
        is what the ingress has answered; None: as before.
        """
        self._subscriber.report(resources, traffic)
        self._output_due.set()

    def take_back(self, positions: Iterable[Position], *, instance_uid: str) -> None:
        """Take rejections back, so that the control plane sends such a snapshot again.

        Args:
            positions: What was rejected.
            instance_uid: Differs from the one before. The next streams are of this instance.
        """
        if self._subscriber.take_back(positions, instance_uid=instance_uid):
            self._hello_outdated.set()

    def waits(self, message: str) -> None:
        """Report what the snapshot that is being put into service waits for, for people to read."""
        self._subscriber.waits(message)
        self._output_due.set()

    async def run(self) -> None:
        """Stay connected: open a stream again whenever it ends. Runs until it is cancelled."""
        self._handlers.revocations.connect(wake=self._output_due.set, restart=self._hello_outdated.set)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._handlers.revocations.run())
            group.create_task(self._handle_pending())
            group.create_task(self._keep_connected())

    # -- streams -----------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # Hello names the snapshot in service, so a pending decision comes first.
            await self._decided.wait()
            started_s = loop.time()
            ended = await self._run_stream()
            good = loop.time() - started_s >= self._timing.good_stream_s
            failures = 0 if good else self._connection.failures + 1
            wait_s = asked_wait_s(self._timing, ended) + self._uniform(0.0, backoff_max_s(self._timing, failures))
            self._set_connection(Connection(failures=failures, last_error=ended.reason))
            _log.info("sync_stream_ended", target=self._target, reason=ended.reason, retry_in_s=round(wait_s, 3))
            await asyncio.sleep(wait_s)

    async def _run_stream(self) -> Ended:
        """Run one stream from Hello to its end."""
        try:
            metadata = await self._metadata()
            channel = self._open_channel(self._target)
        except ValueError as error:
            return Ended(reason=f"CREDENTIALS: {error}", reconnect_after_s=0.0)
        try:
            call = SnapshotServiceStub(channel).Sync(metadata=metadata)
            self._subscriber.open()
            self._handlers.revocations.open()
            self._hello_outdated.clear()
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
            # Cancelling the stream does not close the connection: a leaked channel keeps threads
            # and sockets.
            await channel.close()

    async def _talk(self, call: SyncCall) -> Ended:
        tasks: list[asyncio.Task[Ended]] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._read(call)),
                    group.create_task(self._write(call)),
                    group.create_task(_until_silent(self._timing, lambda: self._messages_received)),
                    group.create_task(self._watch_hello()),
                ]
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as group_error:
            if _is_being_cancelled():
                # An error of a child hides the cancellation of the group's own task.
                raise asyncio.CancelledError from group_error
            raise _first(group_error) from None
        return next(task for task in tasks if task in done).result()

    async def _read(self, call: SyncCall) -> Ended:
        while True:
            response = await call.read()
            if not isinstance(response, pb.SyncResponse):  # EOF
                return await _outcome(call)
            self._messages_received += 1
            for message in messages_of(response):
                ended = await self._receive(message)
                if ended is not None:
                    return ended

    async def _receive(self, response: pb.SyncResponse) -> Ended | None:
        """Take a message. Returns why the stream ends with it, if it does."""
        is_revocations = await self._handlers.revocations.receive(response)
        event = None if is_revocations else self._subscriber.receive(response)
        if response.intent.mode == pb.Intent.MODE_NONE:
            self.renewed_head = signed_head_of(response.intent) or self.renewed_head
        if not self._connection.connected:
            self._set_connection(replace(self._connection, connected=True))
            _log.info("sync_connected", target=self._target)
        self._output_due.set()
        if isinstance(event, Ended):
            return replace(event, reason=f"GOODBYE: {event.reason}")
        if isinstance(event, Candidate):
            self._decided.clear()
            self._pending.put_nowait(event)
        elif isinstance(event, Refused):
            self._pending.put_nowait(event.rejected)
            await self._pending.join()
        return None

    async def _write(self, call: SyncCall) -> Ended:
        while True:
            self._output_due.clear()
            while (message := self._handlers.revocations.next_message(self._subscriber)) is not None:
                try:
                    await call.write(message)
                except asyncio.InvalidStateError:
                    # This is how grpc.aio reports that the call is over. The reader may not have
                    # seen it yet.
                    return await _outcome(call)
            await self._output_due.wait()

    async def _watch_hello(self) -> Ended:
        await self._hello_outdated.wait()
        return Ended(reason="RETRY: a rejected snapshot or missing revocations are asked for", reconnect_after_s=0.0)

    def _set_connection(self, connection: Connection) -> None:
        self._connection = connection
        self._handlers.on_connection(connection)

    # -- decisions ---------------------------------------------------------------------------------

    async def _handle_pending(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            pending = await self._pending.get()
            if isinstance(pending, Rejected):
                await _remember(self._handlers, pending)
            else:
                timer = loop.call_later(self._timing.received_after_s, self._report_received)
                outcome = await _decide(self._handlers, pending)
                timer.cancel()
                rejected = self._subscriber.decided(outcome)
                self._output_due.set()
                self._decided.set()
                if rejected is not None:
                    await _remember(self._handlers, rejected)
            self._pending.task_done()

    def _report_received(self) -> None:
        self._subscriber.takes_long()
        self._output_due.set()


async def _until_silent(timing: Timing, messages_received: Callable[[], int]) -> Ended:
    """Return when no message has arrived for too long.

    A timeout on a read would cancel the whole call in grpc.aio. Intervals are counted instead of
    time, so that a blocked event loop does not end a good stream.
    """
    missed = 0
    seen = messages_received()
    while missed < timing.missed_heartbeats_max:
        await asyncio.sleep(timing.heartbeat_s)
        missed = missed + 1 if seen == messages_received() else 0
        seen = messages_received()
    silent_s = missed * timing.heartbeat_s
    return Ended(reason=f"SILENT: nothing arrived for {silent_s:g} s", reconnect_after_s=0.0)


async def _remember(handlers: Handlers, rejected: Rejected) -> None:
    _log.warning(
        "snapshot_rejected",
        revision=rejected.position.revision,
        store_uid=rejected.position.store_uid,
        reason=rejected.reason,
        error=rejected.message,
    )
    try:
        await handlers.on_rejected(rejected)
    except Exception:
        # It is remembered in memory until this agent stops.
        _log.exception("rejection_not_remembered", revision=rejected.position.revision)


async def _decide(handlers: Handlers, candidate: Candidate) -> Accepted | Rejection | Diverged:
    try:
        if isinstance(candidate.content, Change):
            return await handlers.on_change(candidate.position, candidate.content, candidate.signed_head)
        return await handlers.on_snapshot(candidate.position, candidate.content, candidate.signed_head)
    except Exception as error:
        # The previous snapshot keeps serving. The fleet shows the rejection; the traceback is in
        # this log only.
        _log.exception("snapshot_decision_failed", revision=candidate.position.revision)
        return Rejection(reason=DECISION_FAILED, message=f"the agent failed ({type(error).__name__}); see its log")


SyncCall = grpc.aio.StreamStreamCall[pb.SyncRequest, pb.SyncResponse]


async def _outcome(call: SyncCall) -> Ended:
    code = await call.code()
    return Ended(reason=f"{code.name}: {await call.details() or 'the stream ended'}", reconnect_after_s=0.0)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception of a group. The tasks of a stream fail for one cause."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
