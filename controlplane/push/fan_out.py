"""Points every stream to the newest snapshot.

Nothing here waits for a stream: a commit sets a pointer in each stream and wakes it. A stalled
reader therefore costs a pointer and a chunk, and blocks no other stream.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from broadsheet.v1.snapshot_service_pb2 import Phase
from controlplane.catalog.domain import Head, Identity, Position
from controlplane.errors import Reason, Unavailable
from controlplane.fleet.data_plane import Session
from controlplane.fleet.fleet import Fleet
from controlplane.fleet.progress import ResourceChange
from controlplane.push.stream import Stream
from controlplane.push.subscription.goodbyes import SHUTTING_DOWN

_log = structlog.get_logger("controlplane.push.fan_out")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownSettings:
    """How streams are ended when the control plane stops. Seconds."""

    reconnect_after_s: float = 0.5
    """How long clients are asked to wait before they reconnect. Short, because another control
    plane may accept them immediately."""
    grace_s: float = 5.0
    """How long to wait at most until all streams have said Goodbye and ended."""


class FanOut:
    """The open streams. One per process, used from its event loop only."""

    def __init__(self, fleet: Fleet, *, now: Callable[[], datetime], settings: ShutdownSettings | None = None) -> None:
        """
        Args:
            fleet: Learns what the streams receive.
            now: The time (UTC, aware).
            settings: How streams are ended.
        """
        self._fleet = fleet
        self._now = now
        self._settings = settings or ShutdownSettings()
        self._streams: dict[Stream, None] = {}
        """Attached, and not detached. Several of a data plane, until those superseded have
        ended."""
        self._closing = False
        self._all_ended = asyncio.Event()

    @property
    def head(self) -> Head:
        """The newest snapshot."""
        return self._fleet.state.head

    @property
    def oldest_in_use(self) -> int | None:
        """The oldest catalog revision that a data plane is being sent here, if any."""
        oldest = (stream.subscription.oldest_in_use for stream in self._streams)
        return min((revision for revision in oldest if revision is not None), default=None)

    def streams_by_state(self) -> Mapping[str, int]:
        """How many streams are in each state of `subscription.states`."""
        return Counter(stream.subscription.state.value for stream in self._streams)

    def data_planes_by_phase(self) -> Mapping[str, int]:
        """How many streams report each phase of the snapshot that they target."""
        phases = (Phase.Name(stream.subscription.progress.phase) for stream in self._streams)
        return Counter(phase.removeprefix("PHASE_") for phase in phases)

    @property
    def behind_with_revocations(self) -> int:
        """How many data planes that are connected here do not say that they apply all of them."""
        return sum(stream.revocations.is_behind for stream in self._streams)

    def oldest_of(self, *served: Position | None) -> int:
        """The lowest catalog revision among the head and those snapshots that are of its store."""
        head = self.head.position
        own = (position for position in served if position is not None and position.store_uid == head.store_uid)
        return min((head.revision, *(position.revision for position in own)))

    def reported_by(self, stream: Stream) -> Container[str]:
        """Names of the resources whose statuses are kept of the data plane of a stream."""
        known = self._fleet.state.get(stream.data_plane_id)
        return known.resources.keys() if known is not None else ()

    def publish(self, head: Head) -> None:
        """Point every stream to a newer snapshot. Heads may come in any order."""
        if self._fleet.state.publish(head):
            for stream in self._streams:
                stream.publish(head)
                stream.publish_revocations(head.revocations_sequence)

    def announce_again(self) -> None:
        """Announce the newest snapshot once more on every stream: its signatures have changed."""
        for stream in self._streams:
            stream.announce_again()

    async def prepare(self, data_plane_id: str, identity: Identity = Identity.SHARED) -> Session:
        """Admit a new stream of a data plane, right before it is attached.

        Args:
            data_plane_id: Whose stream it is.
            identity: How sure that is.

        Returns:
            The session, for `attach`.

        Raises:
            PermissionDenied: the data plane has connected with a credential of its own before.
            ResourceExhausted: there are too many data planes.
            Unavailable: the control plane is stopping, or the database failed.
        """
        if self._closing:
            raise Unavailable(Reason.SHUTTING_DOWN, "this control plane is stopping")
        return await self._fleet.admission.admit(data_plane_id, identity)

    def attach(self, stream: Stream, session: Session) -> None:
        """A stream has said Hello. An older stream of the same data plane is superseded."""
        hello, state = stream.hello, self._fleet.state
        known = state.view(hello.data_plane)
        if known is not None:
            same_instance = known.record.instance_uid == hello.instance_uid
            stream.subscription.recall(known.progress, same_instance=same_instance)
        # Since its first message the head may have moved.
        stream.publish(state.head)
        stream.publish_revocations(state.head.revocations_sequence)
        self._streams[stream] = None
        state.attach(hello, stream.progress, stream, session, now=self._now(), identity=stream.identity)
        if self._closing:
            stream.end(SHUTTING_DOWN, reconnect_after_s=self._settings.reconnect_after_s)

    def received(self, stream: Stream, change: ResourceChange) -> None:
        """A stream has received a message. Ignored if the stream is superseded."""
        self._fleet.state.report(stream.data_plane_id, stream, stream.progress, change, now=self._now())

    def detach(self, stream: Stream) -> None:
        """A stream has ended; perhaps before it was attached."""
        self._streams.pop(stream, None)
        self._fleet.state.detach(stream.data_plane_id, stream)
        if not self._streams:
            self._all_ended.set()

    async def shutdown(self) -> None:
        """Say Goodbye on all streams, answer waiting callers, and write the last reports."""
        self._closing = True
        for stream in self._streams:
            stream.end(SHUTTING_DOWN, reconnect_after_s=self._settings.reconnect_after_s)
        self._fleet.waiters.close()
        self._all_ended.clear()
        if self._streams:
            try:
                async with asyncio.timeout(self._settings.grace_s):
                    await self._all_ended.wait()
            except TimeoutError:
                _log.warning("streams_did_not_end", streams=len(self._streams))
        await self._fleet.writer.flush()
