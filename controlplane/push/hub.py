"""Where commits meet streams: points every stream to the newest snapshot, and knows what every data
plane has said.

One per process, used from its event loop only. Nothing here waits for a stream: a commit sets a
pointer per stream and wakes it, so a stalled reader costs a pointer and one chunk, and blocks
nobody.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from controlplane.catalog.domain import DataPlaneRecord, Head, Position
from controlplane.catalog.rollout import Observed
from controlplane.errors import InvalidArgument, Reason, ResourceExhausted, Unavailable
from controlplane.push.chunks import ChunkCache, EntrySource
from controlplane.push.subscription import (
    SHUTTING_DOWN,
    SUPERSEDED,
    Progress,
    ProtocolViolation,
    ResourceChange,
    Subscription,
)
from controlplane.store.fleet.reports import FleetChange, FleetReport
from protocol.names import data_plane_name

RESOURCES_MAX = 1_000_000
"""Resource states kept per data plane: as many as a snapshot may have entries."""

WAITERS_MAX = 1000
"""WaitForRevision calls at a time. Each looks at every data plane it waits for whenever something
changes."""

_REPORTS_PER_WRITE = 50
"""Data planes whose reports are one transaction where control planes share a database."""

_NOTHING_SAID = status_pb2.ResourceStatus()

_log = structlog.get_logger("controlplane.push.hub")


class HubStore(EntrySource, Protocol):
    """The part of the store that the hub uses."""

    async def upsert_data_plane(self, record: DataPlaneRecord) -> None:
        """Keep `record`."""

    async def get_data_plane(self, data_plane_id: str) -> DataPlaneRecord | None:
        """What is kept of a data plane; None: it has never connected."""


class SharedReports(Protocol):
    """How the hub and those of other control planes tell each other about data planes;
    `shared_fleet.py` has it."""

    async def claim(self, data_plane_id: str) -> int:
        """Number a new stream of a data plane."""

    async def put(self, reports: Sequence[FleetReport]) -> None:
        """Tell the others what has changed."""

    async def catch_up(self, follower: Hub) -> None:
        """Learn what others have committed or told before this call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """Bounds of the hub."""

    data_planes_max: int = 10_000
    """Data planes that are remembered; their ids are given by whoever connects."""
    last_seen_write_s: float = 30.0
    """`last_seen_time` of a data plane of which nothing else changed is written this often.
    Seconds."""
    write_interval_s: float = 0.05
    """Between two writes where control planes share a database: what changes meanwhile is written
    together. Seconds."""
    write_retry_s: float = 1.0
    """Wait after a write that failed. Seconds."""
    superseded_reconnect_after_s: float = 30.0
    """Asked of a stream whose place another has taken: two data planes with one id should not chase
    each other."""
    shutdown_reconnect_after_s: float = 0.5
    shutdown_grace_s: float = 5.0
    """For streams to say Goodbye."""


class Outcome(enum.Enum):
    """What a data plane did with a revision; `DataPlaneOutcome.Outcome` of the API, where they are
    explained."""

    ACTIVE = "ACTIVE"
    ACTIVE_WITH_ERRORS = "ACTIVE_WITH_ERRORS"
    REJECTED = "REJECTED"
    PENDING = "PENDING"
    MISSING = "MISSING"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlaneOutcome:
    """What one data plane did with a revision."""

    data_plane_id: str
    outcome: Outcome
    serving: Position | None = None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlaneView:
    """What is known of a data plane now."""

    record: DataPlaneRecord
    connected: bool


class Stream:
    """A stream as the hub sees it: its state machine, and how to make its writer look at it."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.wake = asyncio.Event()


@dataclass(slots=True)
class _DataPlane:
    """What the hub knows of one data plane. `resources` outlives the stream, not the process."""

    record: DataPlaneRecord
    progress: Progress
    stream: Stream | None = None
    resources: dict[str, status_pb2.ResourceStatus] = field(default_factory=dict)
    written: DataPlaneRecord | None = None
    """As it is in the store."""
    elsewhere: FleetChange | None = None
    """What the others know; None: nothing, or this process is the only one."""
    session: int = 0
    """Number of `stream`, or of the last one, among those that the data plane had at any control
    plane."""
    untold: dict[str, status_pb2.ResourceStatus | None] = field(default_factory=dict)
    """Changes of `resources` that the others have not been told. None: it is reported no more."""
    untold_replace: bool = False
    """The others are to forget all statuses before `untold`."""

    @property
    def connected(self) -> bool:
        """Whether it has a stream, here or elsewhere."""
        return self.stream is not None or (self.elsewhere is not None and self.elsewhere.connected)

    def settled_revision(self, head: Position) -> int | None:
        """The head that it has dealt with; None: with none."""
        if self.stream is not None:
            return head.revision if self.stream.subscription.settled else None
        return self.elsewhere.settled_revision if self.elsewhere is not None else None


class Hub:
    """The fan-out. `run` must be running for data planes to be remembered across restarts."""

    def __init__(
        self,
        store: HubStore,
        *,
        head: Head,
        now: Callable[[], datetime],
        settings: HubSettings | None = None,
        shared: SharedReports | None = None,
    ) -> None:
        """
        Args:
            store: Where entries and data planes are kept.
            head: The newest snapshot at start.
            now: The time (UTC, aware).
            settings: Bounds.
            shared: Joins this hub with those of other control planes on the same database. None:
            there are none.
        """
        self._store = store
        self._shared = shared
        self._claims: dict[str, int] = {}
        self._head = head
        self._now = now
        self._settings = settings or HubSettings()
        self._chunks = ChunkCache(store)
        self._data_planes: dict[str, _DataPlane] = {}
        self._unwritten: dict[str, None] = {}
        self._write_due = asyncio.Event()
        self._changed = asyncio.Event()
        """Replaced whenever it is set, so that each waiter sees each change once."""
        self._waiters = 0
        self._closing = False

    @property
    def head(self) -> Head:
        """The newest snapshot."""
        return self._head

    @property
    def chunks(self) -> ChunkCache:
        """Chunks for the streams."""
        return self._chunks

    def publish(self, head: Head) -> None:
        """Point every stream to a newer snapshot. Called after each commit, in any order."""
        if head.position.revision <= self._head.position.revision:
            return
        self._head = head
        for data_plane in self._data_planes.values():
            if data_plane.stream is not None:
                data_plane.stream.subscription.publish(head)
                data_plane.stream.wake.set()
        self._notify()

    # -- streams, called by sync.py

    async def prepare(self, data_plane_id: str) -> None:
        """Load what is kept of a data plane, right before its stream is attached.

        Raises:
            ResourceExhausted: there are too many data planes.
            Unavailable: the control plane is stopping, or the database failed.
        """
        # Another control plane may have served it a newer snapshot than this one knows.
        await self.catch_up()
        if data_plane_id not in self._data_planes:
            record = await self._store.get_data_plane(data_plane_id)
            if record is not None:
                self.remember(record)
        if self._closing:
            raise Unavailable(Reason.SHUTTING_DOWN, "this control plane is stopping")
        if data_plane_id not in self._data_planes and self._full:
            raise ResourceExhausted(
                Reason.TOO_MANY_DATA_PLANES,
                f"{len(self._data_planes)} data planes have connected, and no more are let in",
            )
        if self._shared is not None:
            self._claims[data_plane_id] = await self._shared.claim(data_plane_id)

    def remember(self, record: DataPlaneRecord) -> None:
        """Take what the store knows of a data plane, unless more is known already."""
        if record.id not in self._data_planes and not self._full:
            self._data_planes[record.id] = _DataPlane(record, _progress(record), written=record)

    @property
    def _full(self) -> bool:
        return len(self._data_planes) >= self._settings.data_planes_max

    def attach(self, stream: Stream) -> None:
        """A stream has said Hello. One that the same data plane had before is ended."""
        hello = stream.subscription.hello
        assert hello is not None, "a stream is attached after its Hello"
        now = self._now()
        known = self._data_planes.get(hello.data_plane)
        if known is not None:
            stream.subscription.recall(known.progress, same_instance=known.record.instance_uid == hello.instance_uid)
            if known.stream is not None:
                known.stream.subscription.end(SUPERSEDED, reconnect_after_s=self._settings.superseded_reconnect_after_s)
                known.stream.wake.set()
        record = _record(hello, stream.subscription.progress, connect_time=now, last_seen_time=now)
        if known is None:
            known = self._data_planes[hello.data_plane] = _DataPlane(record, stream.subscription.progress)
        known.record, known.progress, known.stream = record, stream.subscription.progress, stream
        known.session = self._claims.pop(hello.data_plane, known.session)
        if self._closing:
            stream.subscription.end(SHUTTING_DOWN, reconnect_after_s=self._settings.shutdown_reconnect_after_s)
        # Between its first message and now, the head may have moved.
        stream.subscription.publish(self._head)
        stream.wake.set()
        self._mark(hello.data_plane)

    def heard(self, stream: Stream, change: ResourceChange) -> None:
        """A stream has received a message.

        Raises:
            ProtocolViolation: it reports more resources than a snapshot may have.
        """
        data_plane = self._data_plane_of(stream)
        if data_plane is None:
            return
        if not change.replace and len(data_plane.resources) + len(change.updated) > RESOURCES_MAX + len(change.removed):
            raise ProtocolViolation(f"more than {RESOURCES_MAX} resources were reported")
        if change.replace:
            data_plane.resources.clear()
        for resource in change.updated:
            data_plane.resources[resource.name] = resource
        for name in change.removed:
            data_plane.resources.pop(name, None)
        if self._shared is not None:
            self._tell(data_plane, change)
        now = self._now()
        progress = stream.subscription.progress
        if progress != data_plane.progress:
            data_plane.progress = progress
            data_plane.record = _with_progress(data_plane.record, progress, last_seen_time=now)
            self._mark(data_plane.record.id)
            return
        data_plane.record = replace(data_plane.record, last_seen_time=now)
        written = data_plane.written
        if written is None or now - written.last_seen_time >= timedelta(seconds=self._settings.last_seen_write_s):
            self._mark(data_plane.record.id)

    def _tell(self, data_plane: _DataPlane, change: ResourceChange) -> None:
        if change.replace:
            data_plane.untold.clear()
            data_plane.untold_replace = True
        data_plane.untold.update({resource.name: resource for resource in change.updated})
        data_plane.untold.update(dict.fromkeys(change.removed))
        if change.replace or change.updated or change.removed:
            self._mark(data_plane.record.id)

    def detach(self, stream: Stream) -> None:
        """A stream has ended."""
        data_plane = self._data_plane_of(stream)
        if data_plane is not None:
            data_plane.stream = None
            self._mark(data_plane.record.id)

    def _data_plane_of(self, stream: Stream) -> _DataPlane | None:
        """None: it never said Hello, or another stream has taken its place."""
        hello = stream.subscription.hello
        data_plane = self._data_planes.get(hello.data_plane) if hello is not None else None
        return data_plane if data_plane is not None and data_plane.stream is stream else None

    # -- what others know

    async def catch_up(self) -> None:
        """Learn what other control planes have committed, and what their data planes have said,
        before this call.

        Raises:
            Unavailable: the database failed.
        """
        if self._shared is not None:
            await self._shared.catch_up(self)

    def report_numbers(self) -> Mapping[str, int]:
        """What is known of each data plane from other control planes: `FleetChange.number`."""
        return {one: known.elsewhere.number for one, known in self._data_planes.items() if known.elsewhere is not None}

    def learn(self, news: Sequence[FleetChange]) -> None:
        """Take what has changed about data planes since `report_numbers`."""
        changed = False
        for one in news:
            self.remember(one.record)
            known = self._data_planes.get(one.record.id)
            if known is not None and known.elsewhere != one:
                changed = True
                self._learn(known, one)
        if changed:
            self._notify()

    def _learn(self, known: _DataPlane, news: FleetChange) -> None:
        known.elsewhere = replace(news, replace=False, statuses={})
        if known.stream is not None:
            if news.session <= known.session:
                # What this process told the others comes back.
                return
            known.stream.subscription.end(SUPERSEDED, reconnect_after_s=self._settings.superseded_reconnect_after_s)
            known.stream.wake.set()
            known.stream = None
        elif known.session == news.session and news.record.id in self._unwritten:
            # Its stream was here, and its last words are still to be told.
            return
        # What this process still had to say was about an older stream.
        self._unwritten.pop(news.record.id, None)
        known.session = news.session
        if known.untold or known.untold_replace:
            # These were never told, so all that is known is to be read anew.
            known.elsewhere = replace(known.elsewhere, number=0)
            known.untold, known.untold_replace = {}, False
        known.record = known.written = news.record
        known.progress = _progress(news.record)
        if news.replace:
            known.resources.clear()
        for name, status in news.statuses.items():
            if status is not None:
                known.resources[name] = status
            else:
                known.resources.pop(name, None)

    # -- questions

    @property
    def oldest_in_use(self) -> int | None:
        """The oldest catalog revision that a data plane is being sent here; None: none is."""
        under_way = (stream.subscription.in_flight for stream in self._streams())
        return min((head.position.revision for head in under_way if head is not None), default=None)

    @property
    def data_plane_ids(self) -> Sequence[str]:
        """Ids of the data planes that the hub knows, in order."""
        return sorted(self._data_planes)

    def data_plane(self, data_plane_id: str) -> DataPlaneView | None:
        """What is known of a data plane that has connected to this process, or was remembered;
        None: neither."""
        known = self._data_planes.get(data_plane_id)
        if known is None:
            return None
        return DataPlaneView(record=known.record, connected=known.connected)

    def resources(self, data_plane_id: str) -> Sequence[status_pb2.ResourceStatus]:
        """What a data plane has reported, by name. The messages belong to the hub and are not to be
        changed."""
        known = self._data_planes.get(data_plane_id)
        return [status for _, status in sorted(known.resources.items())] if known is not None else ()

    def resource_statuses(
        self, name: str, *, idle_since_revision: int | None = None
    ) -> Sequence[status_pb2.DataPlaneResourceStatus]:
        """What each data plane has made of a model or adapter, by data plane id.

        Args:
            name: Its resource name.
            idle_since_revision: For an adapter, the catalog revision of its last change: data
                planes do not report adapters that are IDLE, so one that serves this revision and
                said nothing else has it IDLE.
        """
        statuses = []
        for data_plane_id, known in sorted(self._data_planes.items()):
            status = known.resources.get(name)
            if status is None and idle_since_revision is not None and _serves(known.progress, idle_since_revision):
                status = status_pb2.ResourceStatus(name=name, state=status_pb2.RESOURCE_STATE_IDLE)
            if status is not None:
                statuses.append(
                    status_pb2.DataPlaneResourceStatus(
                        data_plane=data_plane_name(data_plane_id), connected=known.connected, status=status
                    )
                )
        return statuses

    def observed(self, name: str) -> Sequence[Observed]:
        """What each connected data plane has made of a model revision, by its resource name."""
        said = {one.data_plane: one.status for one in self.resource_statuses(name)}
        return [
            Observed(data_plane=plane, state=status.state, reason=status.reason, message=status.message)
            for data_plane_id, known in sorted(self._data_planes.items())
            if known.connected
            for plane in [data_plane_name(data_plane_id)]
            for status in [said.get(plane, _NOTHING_SAID)]
        ]

    async def wait_for_revision(
        self, revision: int, data_plane_ids: Iterable[str], timeout_s: float
    ) -> tuple[DataPlaneOutcome, ...]:
        """Wait until no data plane is PENDING with `revision`, or the time is over.

        Raises:
            InvalidArgument: there is no such revision yet.
            ResourceExhausted: too many wait already.
        """
        if revision > self._head.position.revision:
            newest = self._head.position.revision
            raise InvalidArgument.of_field("revision", f"got {revision}: the newest catalog revision is {newest}")
        if self._waiters >= WAITERS_MAX:
            raise ResourceExhausted(Reason.TOO_MANY_WAITERS, f"{self._waiters} calls wait already")
        ids = sorted(data_plane_ids)
        self._waiters += 1
        try:
            async with asyncio.timeout(timeout_s):
                while not self._closing and any(self._outcome(one, revision).outcome is Outcome.PENDING for one in ids):
                    await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            self._waiters -= 1
        return tuple(self._outcome(one, revision) for one in ids)

    def _outcome(self, data_plane_id: str, revision: int) -> DataPlaneOutcome:
        known = self._data_planes.get(data_plane_id)
        if known is None:
            return DataPlaneOutcome(data_plane_id=data_plane_id, outcome=Outcome.MISSING)
        progress = known.progress
        answer = DataPlaneOutcome(data_plane_id=data_plane_id, outcome=Outcome.PENDING, serving=progress.serving)
        if not known.connected:
            return replace(answer, outcome=Outcome.MISSING)
        if self._follows_head(progress.serving) and _serves(progress, revision):
            return replace(answer, outcome=Outcome.ACTIVE_WITH_ERRORS if progress.with_errors else Outcome.ACTIVE)
        if known.settled_revision(self._head.position) == self._head.position.revision:
            # Nothing more will be sent, and what it has is older: it has rejected the head.
            told = progress.target == self._head.position and progress.phase == pb.PHASE_REJECTED
            reason, message = (progress.reason, progress.message) if told else ("", "")
            return replace(answer, outcome=Outcome.REJECTED, reason=reason, message=message)
        return answer

    def _follows_head(self, position: Position | None) -> bool:
        """Whether `position` can be of this catalog: a store that was restored without a new uid
        has lost the later revisions, and has others in their place.
        """
        head = self._head.position
        return position == head or (
            position is not None and position.store_uid == head.store_uid and position.revision < head.revision
        )

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # -- life

    async def run(self) -> None:
        """Write what changes about data planes to the store. Ends by being cancelled."""
        while True:
            await self._write_due.wait()
            self._write_due.clear()
            if not await self._write():
                await asyncio.sleep(self._settings.write_retry_s)
            elif self._shared is not None:
                await asyncio.sleep(self._settings.write_interval_s)

    async def shutdown(self) -> None:
        """Say Goodbye on all streams, answer those who wait, and write what is still unwritten."""
        self._closing = True
        for stream in self._streams():
            stream.subscription.end(SHUTTING_DOWN, reconnect_after_s=self._settings.shutdown_reconnect_after_s)
            stream.wake.set()
        self._notify()
        try:
            async with asyncio.timeout(self._settings.shutdown_grace_s):
                while self._streams():
                    await self._changed.wait()
        except TimeoutError:
            _log.warning("streams_did_not_end", streams=len(self._streams()))
        await self._write()

    def _streams(self) -> list[Stream]:
        return [known.stream for known in self._data_planes.values() if known.stream is not None]

    def _mark(self, data_plane_id: str) -> None:
        """Something about a data plane changed: it is to be written, and those who wait look
        again."""
        self._unwritten[data_plane_id] = None
        self._write_due.set()
        self._notify()

    async def _write(self) -> bool:
        """Write the newest record of each data plane that changed. Returns whether all could be
        written."""
        if self._shared is not None:
            return await self._write_reports(self._shared)
        while self._unwritten:
            data_plane_id = next(iter(self._unwritten))
            del self._unwritten[data_plane_id]
            known = self._data_planes[data_plane_id]
            record = known.record
            try:
                await self._store.upsert_data_plane(record)
            except Exception as error:
                # The state in memory is what streams and callers go by; the store catches up.
                _log.warning("data_plane_not_written", data_plane=data_plane_id, error=type(error).__name__)
                self._unwritten[data_plane_id] = None
                self._write_due.set()
                return False
            known.written = record
        return True

    async def _write_reports(self, shared: SharedReports) -> bool:
        """The same where control planes share a database: with statuses, and several data planes at
        a time."""
        while self._unwritten:
            ids = list(itertools.islice(self._unwritten, _REPORTS_PER_WRITE))
            for data_plane_id in ids:
                del self._unwritten[data_plane_id]
            batch = [self._data_planes[one] for one in ids]
            reports = [self._take_report(known) for known in batch]
            try:
                await shared.put(reports)
            except Exception as error:
                _log.warning("reports_not_written", data_planes=len(batch), error=type(error).__name__)
                for known, report in zip(batch, reports, strict=True):
                    if known.session == report.session:
                        _give_back(known, report)
                        self._unwritten[known.record.id] = None
                self._write_due.set()
                return False
            for known, report in zip(batch, reports, strict=True):
                known.written = report.record
        return True

    def _take_report(self, known: _DataPlane) -> FleetReport:
        report = FleetReport(
            record=known.record,
            session=known.session,
            connected=known.stream is not None,
            settled_revision=known.settled_revision(self._head.position),
            replace=known.untold_replace,
            statuses=known.untold,
        )
        known.untold, known.untold_replace = {}, False
        return report


def _give_back(known: _DataPlane, report: FleetReport) -> None:
    """Put what could not be told before what has come since."""
    if not known.untold_replace:
        known.untold = {**report.statuses, **known.untold}
        known.untold_replace = report.replace


def _serves(progress: Progress, revision: int) -> bool:
    return progress.serving is not None and progress.serving.revision >= revision


def _progress(record: DataPlaneRecord) -> Progress:
    return Progress(
        serving=record.serving,
        target=record.target,
        phase=record.phase,
        reason=record.reason,
        message=record.message,
        with_errors=record.phase == pb.PHASE_ACTIVE_WITH_ERRORS and record.target == record.serving,
    )


def _record(
    hello: pb.Hello, progress: Progress, *, connect_time: datetime, last_seen_time: datetime
) -> DataPlaneRecord:
    return DataPlaneRecord(
        id=hello.data_plane,
        instance_uid=hello.instance_uid,
        serving=progress.serving,
        target=progress.target,
        phase=progress.phase,
        reason=progress.reason,
        message=progress.message,
        http_address=hello.http_address,
        software_version=hello.software_version,
        connect_time=connect_time,
        last_seen_time=last_seen_time,
    )


def _with_progress(record: DataPlaneRecord, progress: Progress, *, last_seen_time: datetime) -> DataPlaneRecord:
    return replace(
        record,
        serving=progress.serving,
        target=progress.target,
        phase=progress.phase,
        reason=progress.reason,
        message=progress.message,
        last_seen_time=last_seen_time,
    )
