"""The state of the fleet: the newest snapshot, and what is known of each data plane. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from controlplane.catalog.domain import DataPlaneRecord, Head, Identity
from controlplane.fleet.data_plane import Connection, DataPlane, Session
from controlplane.fleet.known import KnownDataPlanes
from controlplane.fleet.merging import merge
from controlplane.fleet.progress import Progress, ResourceChange, progress_in, record_of, record_with
from controlplane.store.fleet.reports import FleetChange, FleetReport

STATUSES_PER_ENTRY = 2
"""A model that is rolled out has a status for each of its two revisions; all others have one."""

SPARE_STATUSES = 1000
"""Statuses beyond those of the largest known snapshot, for a data plane that still serves a larger
one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLimits:
    """Bounds of the state."""

    data_planes_max: int = 10_000
    """Data planes in memory. A bound is needed because clients choose their own ids. Those that are
    not connected are also in the database, and give way to those that are."""
    last_seen_write_s: float = 30.0
    """How often a data plane is written of which only `last_seen_time` has changed. Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlaneView:
    """What is known of a data plane now."""

    record: DataPlaneRecord
    progress: Progress
    connected: bool

    @classmethod
    def of(cls, known: DataPlane) -> DataPlaneView:
        """What is known of a data plane in memory."""
        return cls(record=known.record, progress=known.progress, connected=known.connected)

    @classmethod
    def of_stored(cls, record: DataPlaneRecord) -> DataPlaneView:
        """What is known of a data plane that only the database has."""
        return cls(record=record, progress=progress_in(record), connected=False)


class FleetState:
    """What is known of all data planes. Transitions change it; questions do not.

    Invariants: the revision of `head` only grows; at most one connection of a data plane counts,
    the one with the highest session.
    """

    def __init__(
        self,
        *,
        head: Head,
        shares_statuses: bool,
        limits: FleetLimits | None = None,
        on_change: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """
        Args:
            head: The newest snapshot at start.
            shares_statuses: Whether reports carry resource statuses, for other control planes.
            limits: Bounds.
            on_change: Called after each transition with the id of the data plane; with None when
                the head has changed. Must not block or raise.
        """
        self._head = head
        self._shares_statuses = shares_statuses
        self._limits = limits or FleetLimits()
        self._last_seen_write = timedelta(seconds=self._limits.last_seen_write_s)
        self._on_change = on_change
        self._entries_seen = head.entry_count
        """Entries of the largest head so far."""
        self._data_planes = KnownDataPlanes()
        self._unwritten: dict[str, None] = {}
        """Ids of data planes that changed since their last report, oldest change first."""

    # -- transitions: the catalog and streams ------------------------------------------------------

    def publish(self, head: Head) -> bool:
        """Take a committed snapshot. Returns whether it is newer than the head."""
        if head.position.revision <= self._head.position.revision:
            return False
        self._head = head
        self._entries_seen = max(self._entries_seen, head.entry_count)
        self._on_change(None)
        return True

    def remember(self, record: DataPlaneRecord, *, make_room: bool = False) -> bool:
        """Take a record from the database, unless the data plane is known already.

        Args:
            record: Of a data plane that is not connected here.
            make_room: When the memory is full, forget one that is not connected and is stored.

        Returns:
            Whether the data plane is known now. If not, the memory is full.
        """
        if record.id not in self._data_planes:
            if self.is_full and make_room:
                self._data_planes.make_room(kept=self._unwritten)
            if self.is_full:
                return False
            self._data_planes[record.id] = DataPlane(record=record, progress=progress_in(record), stored=record)
        return True

    def attach(
        self,
        hello: pb.Hello,
        progress: Progress,
        connection: Connection,
        session: Session,
        *,
        now: datetime,
        identity: Identity = Identity.SHARED,
    ) -> None:
        """A stream has begun. Of two streams of a data plane, the older session is superseded."""
        record = record_of(hello, progress, now=now, identity=identity)
        known = self._data_planes.get_known(hello.data_plane)
        if known is None:
            known = self._data_planes[hello.data_plane] = DataPlane(record=record, progress=progress)
        if session < known.session:
            connection.supersede()
            return
        known.end_stream()
        known.record, known.progress = record, progress
        known.history.note(progress, now)
        known.connection, known.session = connection, session
        self._mark_unwritten(hello.data_plane)

    def report(
        self, data_plane_id: str, connection: Connection, progress: Progress, change: ResourceChange, *, now: datetime
    ) -> None:
        """A stream has received a message. Ignored if the stream is superseded.

        Statuses of more names than the catalog can have are dropped.
        """
        known = self._connected_by(data_plane_id, connection)
        if known is None:
            return
        known.has_reported |= change.replace
        change = known.bounded(change, statuses_max=STATUSES_PER_ENTRY * self._entries_seen + SPARE_STATUSES)
        known.apply(change)
        if progress != known.progress:
            known.progress = progress
            known.history.note(progress, now)
            known.record = record_with(known.record, progress, now=now)
            is_due = True
        else:
            known.record = replace(known.record, last_seen_time=now)
            last_seen_write = timedelta(seconds=self._limits.last_seen_write_s)
            is_due = known.stored is None or now - known.stored.last_seen_time >= last_seen_write
        if self._shares_statuses and not change.is_empty:
            known.unshared.add(change)
            is_due = True
        if is_due:
            self._mark_unwritten(data_plane_id)

    def detach(self, data_plane_id: str, connection: Connection) -> None:
        """A stream has ended. Ignored if the stream is superseded."""
        known = self._connected_by(data_plane_id, connection)
        if known is not None:
            known.lose_stream()
            self._mark_unwritten(data_plane_id)

    def forget(self, data_plane_id: str, *, session: Session | None = None) -> None:
        """A data plane is removed; with a session, only if that is its newest. Its stream ends."""
        known = self._data_planes.get_known(data_plane_id)
        if known is None or session not in (None, known.session):
            return
        del self._data_planes[data_plane_id]
        self._unwritten.pop(data_plane_id, None)
        if known.connection is not None:
            known.connection.dismiss()
        self._on_change(data_plane_id)

    def abandon(self, data_plane_id: str, session: Session) -> None:
        """A stream has ended after its session was claimed, and before it was attached.

        To the shared database it is the newest, and connected. So it is reported as disconnected.
        """
        known = self._data_planes.get_known(data_plane_id)
        if known is None or session < known.session:
            return
        known.end_stream()
        known.session = session
        if known.elsewhere is not None:
            known.elsewhere = replace(known.elsewhere, connected=False)
        self._mark_unwritten(data_plane_id)

    # -- transitions: the database -----------------------------------------------------------------

    def learn(self, changes: Sequence[FleetChange]) -> None:
        """Take what the shared database has that `report_numbers` lacks."""
        # First those that are known: the others may take the place of one that has disconnected.
        for item in sorted(changes, key=lambda item: item.record.id not in self._data_planes):
            self.remember(item.record, make_room=item.connected)
            known = self._data_planes.get_known(item.record.id)
            if known is not None and known.elsewhere != item:
                if merge(known, item, has_unwritten_report=item.record.id in self._unwritten):
                    self._unwritten.pop(item.record.id, None)
                self._on_change(item.record.id)

    def take_reports(self, limit: int) -> Sequence[FleetReport]:
        """Reports of up to `limit` data planes that are to be written now, oldest change first.

        Each is followed by `written` or `not_written`.
        """
        ids = list(itertools.islice(self._unwritten, limit))
        for data_plane_id in ids:
            del self._unwritten[data_plane_id]
        return [self._data_planes[data_plane_id].take_report() for data_plane_id in ids]

    def written(self, reports: Sequence[FleetReport]) -> None:
        """The database has these reports."""
        for report in reports:
            known = self._data_planes.get_known(report.record.id)
            if known is not None:
                known.stored = replace(report.record, changes=())
                known.history.written(report.record)

    def not_written(self, reports: Sequence[FleetReport]) -> None:
        """The database failed. What these reports held is to be written later."""
        for report in reports:
            known = self._data_planes.get_known(report.record.id)
            # A report of an earlier session is of no use to anybody.
            if known is not None and known.session == report.session:
                known.unshared.prepend(report)
                self._mark_unwritten(report.record.id)

    # -- questions ---------------------------------------------------------------------------------

    @property
    def head(self) -> Head:
        """The newest snapshot that this process knows."""
        return self._head

    @property
    def is_full(self) -> bool:
        """Whether no further data plane can be remembered."""
        return len(self._data_planes) >= self._limits.data_planes_max

    @property
    def has_unwritten(self) -> bool:
        """Whether there is a report to write."""
        return bool(self._unwritten)

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the data planes that are known, in order."""
        return self._data_planes.ids

    def get(self, data_plane_id: str) -> DataPlane | None:
        """All that is known of a data plane, to read only; None: nothing."""
        return self._data_planes.get_known(data_plane_id)

    @property
    def by_name(self) -> Sequence[tuple[str, DataPlane]]:
        """All data planes by resource name, in the order of ids, to read only."""
        return self._data_planes.by_name

    def view(self, data_plane_id: str) -> DataPlaneView | None:
        """What is known of a data plane that has connected, or was remembered; None: neither."""
        known = self._data_planes.get_known(data_plane_id)
        return DataPlaneView.of(known) if known is not None else None

    def resources(self, data_plane_id: str) -> Sequence[status_pb2.ResourceStatus]:
        """What a data plane has reported, by resource name. The messages are to read only."""
        known = self._data_planes.get_known(data_plane_id)
        return [status for _, status in sorted(known.resources.items())] if known is not None else ()

    def report_numbers(self) -> Mapping[str, int]:
        """`FleetChange.number` of what is known from the shared database, by data plane id."""
        return self._data_planes.report_numbers

    def sessions(self) -> Mapping[str, Session]:
        """The newest session of each data plane that is known, by id."""
        return self._data_planes.sessions

    def _connected_by(self, data_plane_id: str, connection: Connection) -> DataPlane | None:
        known = self._data_planes.get_known(data_plane_id)
        return known if known is not None and known.connection is connection else None

    def _mark_unwritten(self, data_plane_id: str) -> None:
        self._unwritten[data_plane_id] = None
        self._on_change(data_plane_id)
