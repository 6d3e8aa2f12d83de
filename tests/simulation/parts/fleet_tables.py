"""The tables in which control planes on one database share what data planes report.

It does in memory what `controlplane.store.fleet.tables.FleetTables` does on PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from broadsheet.v1 import status_pb2
from controlplane.catalog.domain import DataPlaneRecord
from controlplane.store.fleet.reports import FleetChange, FleetReading, FleetReport
from tests.simulation.parts.store import Store
from tests.simulation.virtual.clock import Clock


@dataclass(slots=True)
class _Row:
    session: int
    replica_uid: str
    connected: bool
    number: int
    replaced_number: int
    settled_revision: int | None = None
    record: DataPlaneRecord | None = None
    statuses: dict[str, tuple[int, status_pb2.ResourceStatus | None]] = field(default_factory=dict)


class SimulatedFleetTables:
    """Reports of data planes, and which control planes live."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self._beats: dict[str, float] = {}
        self._in_use: dict[str, int | None] = {}

    @property
    def oldest_in_use(self) -> Sequence[int]:
        """What the control planes say that they are sending."""
        return [revision for revision in self._in_use.values() if revision is not None]

    async def heartbeat(self, replica_uid: str, oldest_in_use: int | None) -> None:
        self._store.check()
        self._beats[replica_uid], self._in_use[replica_uid] = self._clock.now_s, oldest_in_use
        for uid, beat_s in list(self._beats.items()):
            if beat_s < self._clock.now_s - 60:
                await self.leave(uid)

    async def leave(self, replica_uid: str) -> None:
        self._beats.pop(replica_uid, None)
        self._in_use.pop(replica_uid, None)

    async def claim(self, data_plane_ids: Collection[str], replica_uid: str) -> Mapping[str, int]:
        self._store.check()
        return {data_plane_id: self._claim(data_plane_id, replica_uid) for data_plane_id in data_plane_ids}

    def _claim(self, data_plane_id: str, replica_uid: str) -> int:
        row = self._rows.get(data_plane_id)
        if row is None:
            now_us = 1 + int(self._clock.now_s * 1e6)
            self._rows[data_plane_id] = _Row(now_us, replica_uid, True, now_us, now_us)
            return now_us
        row.session, row.number = row.session + 1, row.number + 1
        row.replica_uid, row.connected, row.settled_revision = replica_uid, True, None
        return row.session

    async def put(self, reports: Sequence[FleetReport]) -> None:
        self._store.check()
        for report in reports:
            row = self._rows.get(report.record.id)
            if row is None or row.session != report.session:
                continue
            row.number += 1
            row.connected, row.settled_revision, row.record = report.connected, report.settled_revision, report.record
            if report.replace:
                row.replaced_number = row.number
                row.statuses.clear()
            row.statuses.update({name: (row.number, status) for name, status in report.statuses.items()})

    async def changes_since(self, known: Mapping[str, int], lease_s: float) -> FleetReading:
        self._store.check()
        found = [
            self._change(row, row.record, known.get(data_plane_id, 0), lease_s)
            for data_plane_id, row in sorted(self._rows.items())
            if row.record is not None
        ]
        return FleetReading(changes=found, ids=frozenset(self._rows))

    def _change(self, row: _Row, record: DataPlaneRecord, known: int, lease_s: float) -> FleetChange:
        replace = known < row.replaced_number
        since = 0 if replace else known
        statuses = {name: status for name, (number, status) in row.statuses.items() if number > since}
        alive = self._beats.get(row.replica_uid, float("-inf")) > self._clock.now_s - lease_s
        return FleetChange(
            record=record,
            session=row.session,
            replica_uid=row.replica_uid,
            connected=row.connected and alive,
            settled_revision=row.settled_revision,
            number=row.number,
            replace=replace,
            statuses=statuses if row.number != known else {},
        )
