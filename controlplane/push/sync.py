"""Serves Sync streams: moves messages between gRPC and a `Subscription`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable

import structlog

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane import principal
from controlplane.errors import FailedPrecondition, InvalidArgument, Reason, Unavailable
from controlplane.fleet.progress import Progress, ResourceChange
from controlplane.metrics.metrics import Metrics
from controlplane.push.chunks import ChunkCache
from controlplane.push.fan_out import FanOut
from controlplane.push.head_signing import HeadSigner
from controlplane.push.reported_names import CatalogNames
from controlplane.push.revocation_batches import RevocationBatches
from controlplane.push.stream import Context, Identify, Stream
from controlplane.push.stream_writer import StreamWriter
from controlplane.push.subscription.machine import Subscription
from controlplane.push.subscription.states import State
from controlplane.push.subscription.timing import Limits
from controlplane.push.subscription.transfer import ChangeRequest, ChunkRequest, PieceRequest
from controlplane.push.subscription.violations import ProtocolViolation
from controlplane.push.watch import Watch

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    # A peer that is gone without closing its connection is noticed after half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Data planes ping every 20 s. By default the server takes more than a ping in 5 minutes for an
    # attack, and closes the connection with too_many_pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
"""Options of the server that serves the streams."""

WATCH_S = 5.0
"""How often to check for a stuck writer, and how long a stream has for its Goodbye. Seconds."""

_log = structlog.get_logger("controlplane.push.sync")


class SyncHandler:
    """Serves Sync streams. `SnapshotServicer.Sync` awaits it with its own arguments."""

    def __init__(
        self,
        fan_out: FanOut,
        chunks: ChunkCache,
        names: CatalogNames,
        revocations: RevocationBatches,
        *,
        identify: Identify,
        heads: HeadSigner | None = None,
        limits: Limits | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        watch_s: float = WATCH_S,
    ) -> None:
        """
        Args:
            fan_out: Where commits come from, and reports go.
            chunks: Snapshots to send.
            names: Tells names of the catalog from made-up ones.
            revocations: API keys to refuse, whatever snapshot is served.
            identify: Decides which data planes a caller may speak for.
            heads: Signs the heads of snapshots. None: nothing is signed.
            limits: How long things may take.
            metrics: Where snapshots are counted; None: in metrics that nothing shows.
            clock: Seconds of a clock that does not go back.
            watch_s: How often to check for a stuck writer. Seconds.
        """
        self._fan_out = fan_out
        self._chunks = chunks
        self._names = names
        self._revocations = revocations
        self._identify = identify
        self._heads = heads or HeadSigner(None)
        self._limits = limits or Limits()
        self._metrics = metrics or Metrics(clock=clock)
        self._clock = clock
        self._watch_s = watch_s
        self._watch = Watch(clock=clock, watch_s=watch_s)

    async def __call__(self, requests: AsyncIterable[pb.SyncRequest], context: Context) -> None:
        """Serve a stream, from its first message to its end.

        Raises:
            InvalidArgument: a message is invalid.
            PermissionDenied: the credentials may not speak for this data plane.
            FailedPrecondition: a message came at the wrong time.
            Unavailable: the client does not read or speak, or the control plane is stopping.
        """
        subscription = Subscription(head=self._fan_out.floor, limits=self._limits, now_s=self._clock())
        stream = Stream(
            subscription,
            revocations_newest=self._fan_out.head.revocations_sequence,
            call=context,
            caller=principal.current(),
        )
        writer = StreamWriter(context.write)
        failure: BaseException | None = None
        try:
            await self._serve(stream, requests, writer)
        except BaseExceptionGroup as group_error:
            failure = self._translate(stream, _first(group_error))
        finally:
            writer.stopped = True
            stream.wake.set()
            self._fan_out.detach(stream)
            _log.info(
                "sync_stream_ended",
                data_plane=stream.data_plane_id,
                state=stream.subscription.state.value,
                statuses_dropped=stream.statuses_dropped,
            )
        await writer.finish(self._watch_s)
        if failure is not None:
            raise failure

    async def _serve(self, stream: Stream, requests: AsyncIterable[pb.SyncRequest], writer: StreamWriter) -> None:
        attached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self._read(stream, requests, attached))
            writing = writer.begin(self._write(stream, writer, attached))
            try:
                with self._watch.over(stream, reading):
                    await _first_done(reading, writing)
            finally:
                # Without it, a writer that waits for the attachment would hold up the status.
                attached.cancel()
            if writer.client_is_gone:
                await asyncio.Event().wait()
            reading.cancel()
            if stream.given_up:
                description = "the data plane did not read, answer or speak for too long"
                raise Unavailable(Reason.DATA_PLANE_SILENT, description)
            if writing.done() and not writing.cancelled():
                writing.result()

    async def _read(
        self, stream: Stream, requests: AsyncIterable[pb.SyncRequest], attached: asyncio.Future[None]
    ) -> None:
        async for request in requests:
            await self._take(stream, request, attached)
            # A stream waits here for most of its life, and would keep its last message.
            del request

    async def _take(self, stream: Stream, request: pb.SyncRequest, attached: asyncio.Future[None]) -> None:
        subscription = stream.subscription
        before = stream.progress
        change = subscription.receive(request, self._clock())
        stream.note_traffic(request)
        if subscription.state is State.CLOSED:
            # It crossed the Goodbye, and means nothing any more.
            return
        stream.revocations.receive(request, store_uid=self._fan_out.head.position.store_uid)
        if not attached.done():
            stream.identity = self._identify(principal.current(), stream.data_plane_id)
            session = await self._fan_out.prepare(stream.data_plane_id, stream.identity)
            self._fan_out.attach(stream, session)
            attached.set_result(None)
            _log.info("sync_stream_began", data_plane=stream.data_plane_id, identity=stream.identity.value)
        else:
            since = self._fan_out.oldest_of(before.serving, subscription.progress.serving)
            self._fan_out.received(stream, await self._known_part(stream, change, since))
            self._measure(before, stream.progress)
            if subscription.state is State.IDLE and subscription.settled and stream.revocations.next_batch is None:
                # Most messages of a fleet are its last answers to a change: nothing follows.
                return
        stream.wake.set()

    async def _known_part(self, stream: Stream, change: ResourceChange, since_revision: int) -> ResourceChange:
        held = self._fan_out.reported_by(stream)
        known = await self._names.known_part(change, held=held, since_revision=since_revision)
        dropped = len(change.updated) - len(known.updated)
        if dropped and not stream.statuses_dropped:
            # Once for each stream: a data plane may make up any number of names.
            _log.warning("statuses_of_unknown_names_dropped", data_plane=stream.data_plane_id, statuses=dropped)
        stream.statuses_dropped += dropped
        return known

    async def _write(self, stream: Stream, writer: StreamWriter, attached: asyncio.Future[None]) -> None:
        await attached
        subscription = stream.subscription
        writer.takes_batches = pb.FEATURE_BATCH in stream.hello.features
        while subscription.state is not State.CLOSED and not writer.stopped:
            stream.wake.clear()
            # One batch at most, so that revocations hold up neither snapshots nor heartbeats.
            await self._write_revocations(stream, writer)
            output = subscription.take_output(self._clock())
            if output is None:
                await writer.flush()
                await self._wait(stream)
            elif isinstance(output, ChangeRequest):
                can_send_change = await self._chunks.can_send(output)
                intent = subscription.announce(output, can_send_change=can_send_change)
                await writer.write(self._signed(subscription, intent).SerializeToString())
            elif isinstance(output, pb.SyncResponse):
                await writer.write(self._signed(subscription, output).SerializeToString())
            else:
                await self._write_piece(subscription, output, writer)
        await writer.flush()

    def _signed(self, subscription: Subscription, response: pb.SyncResponse) -> pb.SyncResponse:
        return self._heads.add_to(response, subscription.head)

    async def _write_revocations(self, stream: Stream, writer: StreamWriter) -> None:
        request = stream.revocations.next_batch
        if request is not None:
            batch = await self._revocations.get(request)
            stream.revocations.sent(batch.last_sequence)
            await writer.write(batch.response.SerializeToString())

    async def _write_piece(self, subscription: Subscription, request: PieceRequest, writer: StreamWriter) -> None:
        piece = await self._chunks.get(request)
        if piece is None:
            subscription.change_written()
            return
        await writer.write(piece.content)
        subscription.chunk_written(piece.written)
        self._metrics.sent(_mode(request), len(piece.content))

    def _measure(self, before: Progress, after: Progress) -> None:
        if after.serving is not None and after.serving != before.serving:
            self._metrics.served(after.serving.revision)
        if after.phase == pb.PHASE_REJECTED and (before.phase, before.target) != (after.phase, after.target):
            self._metrics.rejected()
        if after.revocations_sequence > before.revocations_sequence:
            self._metrics.revocations_applied(after.revocations_sequence)

    async def _wait(self, stream: Stream) -> None:
        """Wait until there may be something to send."""
        if stream.wake.is_set() or stream.revocations.next_batch is not None:
            return
        loop = asyncio.get_running_loop()
        # `asyncio.timeout` costs several times as much, and streams do little else than wait.
        due = loop.call_later(max(0.0, stream.subscription.due_s - self._clock()), stream.wake.set)
        try:
            await stream.wake.wait()
        finally:
            due.cancel()

    def _translate(self, stream: Stream, error: BaseException) -> BaseException:
        if not isinstance(error, ProtocolViolation):
            return error
        _log.warning("sync_protocol_violation", data_plane=stream.data_plane_id, by=error.by, error=error.message)
        if error.violations:
            return InvalidArgument.of_fields(error.violations)
        return FailedPrecondition(Reason.PROTOCOL_VIOLATION, error.message)


async def _first_done(*tasks: asyncio.Task[None]) -> None:
    """Return when one of the tasks is done. `asyncio.wait` keeps 1 kB more until then."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def note(_: asyncio.Task[None]) -> None:
        if not done.done():
            done.set_result(None)

    for task in tasks:
        task.add_done_callback(note)
    try:
        await done
    finally:
        for task in tasks:
            task.remove_done_callback(note)


def _mode(request: PieceRequest) -> str:
    if isinstance(request, ChunkRequest):
        return "FULL" if request.base is None else "DELTA"
    return "MANIFEST"


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception of a group: the tasks of a stream fail for a common cause."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
