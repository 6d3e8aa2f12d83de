"""The tables in which control planes on one PostgreSQL database share the state of data planes.

No statement here takes the lock on the catalog, so reports and catalog changes do not wait for each
other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, Text, bindparam, delete, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert

from broadsheet.v1 import status_pb2
from controlplane.store.databases.connection import Statements, WriteConnection
from controlplane.store.databases.failures import database_errors
from controlplane.store.databases.postgres import CATALOG_CHANNEL, PostgresDatabase
from controlplane.store.databases.timing import FLEET_READ, FLEET_WRITE
from controlplane.store.fleet.data_planes import DataPlaneRecords, data_plane
from controlplane.store.fleet.reports import FleetChange, FleetReading, FleetReport
from controlplane.store.schema import data_plane_reports, data_planes, replicas, resource_statuses

FLEET_CHANNEL = "broadsheet_fleet"
"""The NOTIFY channel that announces changed reports."""

_NOW_US: ColumnElement[int] = literal_column("(extract(epoch from clock_timestamp()) * 1000000)::bigint")

_STATUSES_PER_STATEMENT = 500
"""PostgreSQL takes 32,767 parameters in one statement."""

_FORGET_REPLICAS_AFTER_US = 60 * 1_000_000
"""Far longer than any lease. Until then, the snapshots that a dead process was sending are kept."""


class FleetTables:
    """The reports of data planes, shared by the control planes on one database.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, database: PostgresDatabase, *, timed: Callable[[str], AbstractContextManager[None]]) -> None:
        """
        Args:
            database: Where the tables are.
            timed: What is around each operation, given its kind.
        """
        self._database = database
        self._timed = timed

    async def listen(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` at once, and whenever a control plane commits or reports.

        Returns when the connection is lost. Raises the exceptions of the driver.
        """
        engine = self._database.separate_engine()
        try:
            async with engine.connect() as connection:
                driver = (await connection.get_raw_connection()).driver_connection
                assert driver is not None, "the connection is open"
                lost = asyncio.Event()
                driver.add_termination_listener(lambda *_: lost.set())
                for channel in (CATALOG_CHANNEL, FLEET_CHANNEL):
                    await driver.add_listener(channel, lambda *_: on_change())
                # There may have been a change before the listeners were added.
                on_change()
                await lost.wait()
        finally:
            await engine.dispose()

    async def heartbeat(self, replica_uid: str, oldest_in_use: int | None) -> None:
        """Record that this control plane is running, and delete those that are gone.

        Args:
            replica_uid: This control plane.
            oldest_in_use: The oldest catalog revision that it is sending. None: it is sending none.
        """
        values = {"heartbeat_time_us": _NOW_US, "oldest_in_use": oldest_in_use}
        with self._timed(FLEET_WRITE), database_errors():
            async with self._database.begin_write() as connection:
                beat = insert(replicas).values(uid=replica_uid, **values)
                await connection.execute(beat.on_conflict_do_update(index_elements=["uid"], set_=values))
                await connection.execute(
                    delete(replicas).where(replicas.c.heartbeat_time_us < _NOW_US - _FORGET_REPLICAS_AFTER_US)
                )

    async def leave(self, replica_uid: str) -> None:
        """Record that this control plane is stopping. Its data planes are disconnected at once."""
        with self._timed(FLEET_WRITE), database_errors():
            async with self._database.begin_write() as connection:
                await connection.execute(delete(replicas).where(replicas.c.uid == replica_uid))
                await notify(connection)

    async def claim(self, data_plane_ids: Collection[str], replica_uid: str) -> Mapping[str, int]:
        """Number a new stream of each data plane. Their earlier streams are ignored from now on.

        Returns:
            The numbers by data plane id, for `FleetReport.session`.
        """
        row = data_plane_reports.c
        changes = {
            "session": row.session + 1,
            "replica_uid": replica_uid,
            "connected": True,
            "settled_revision": None,
            "number": row.number + 1,
        }
        with self._timed(FLEET_WRITE), database_errors():
            async with self._database.begin_write() as connection:
                # A data plane that was removed may come back. A control plane that has not noticed
                # its removal must take the numbers for newer than those it knows, and read all.
                now_us: int = (await connection.execute(select(_NOW_US))).scalar_one()
                claims = [
                    {
                        "data_plane_id": data_plane_id,
                        "session": now_us,
                        "replica_uid": replica_uid,
                        "connected": True,
                        "number": now_us,
                        "replaced_number": now_us,
                    }
                    # Always in this order, so that two transactions cannot deadlock.
                    for data_plane_id in sorted(set(data_plane_ids))
                ]
                claim = insert(data_plane_reports).values(claims)
                claim = claim.on_conflict_do_update(index_elements=["data_plane_id"], set_=changes)
                claimed = await connection.execute(claim.returning(row.data_plane_id, row.session))
                sessions = {found.data_plane_id: found.session for found in claimed}
                await notify(connection)
        return sessions

    async def put(self, reports: Sequence[FleetReport]) -> None:
        """Write reports. Those of a stream that is not the newest of its data plane are dropped."""
        with self._timed(FLEET_WRITE), database_errors():
            async with self._database.begin_write() as connection:
                # Always in this order, so that two transactions cannot deadlock.
                in_order = sorted(reports, key=lambda report: report.record.id)
                written = [report.record for report in in_order if await _put(connection, report)]
                await DataPlaneRecords(connection).put_changes(written)
                await notify(connection)

    async def changes_since(self, known: Mapping[str, int], lease_s: float) -> FleetReading:
        """The state of each data plane that has a report, with the statuses changed since `known`.

        Args:
            known: `FleetChange.number` of the last read, by data plane id.
            lease_s: A control plane without a heartbeat for so many seconds counts as gone.
        """
        lease_us = round(lease_s * 1_000_000)
        alive = func.coalesce(replicas.c.heartbeat_time_us > _NOW_US - lease_us, False)
        query = (
            select(data_plane_reports, data_planes, alive.label("replica_alive"))
            # Full, because one that connects has no record yet, and one from before has no report.
            .join(data_planes, data_planes.c.id == data_plane_reports.c.data_plane_id, full=True)
            .outerjoin(replicas, replicas.c.uid == data_plane_reports.c.replica_uid)
            .order_by(data_plane_reports.c.data_plane_id)
        )
        with self._timed(FLEET_READ), database_errors():
            async with self._database.engine.begin() as connection:
                rows = (await connection.execute(query)).all()
                reported = [row for row in rows if row.data_plane_id is not None and row.id is not None]
                statuses = await _statuses_since(connection, reported, known)
                return FleetReading(
                    changes=[
                        _change(row, known.get(row.data_plane_id, 0), statuses.get(row.data_plane_id, {}))
                        for row in reported
                    ],
                    ids=frozenset(row.data_plane_id or row.id for row in rows),
                )


async def _put(connection: WriteConnection, report: FleetReport) -> bool:
    """Write a report, without its changes. Returns whether its stream is the newest."""
    row = data_plane_reports.c
    changes: dict[str, Any] = {
        "connected": report.connected,
        "settled_revision": report.settled_revision,
        "number": row.number + 1,
    }
    if report.replace:
        changes["replaced_number"] = row.number + 1
    newest_stream = (row.data_plane_id == report.record.id) & (row.session == report.session)
    numbered = await connection.execute(
        update(data_plane_reports).where(newest_stream).values(**changes).returning(row.number)
    )
    number = numbered.scalar_one_or_none()
    if number is None:
        return False
    await DataPlaneRecords(connection).put(report.record)
    if report.replace:
        of_this = resource_statuses.c.data_plane_id == report.record.id
        await connection.execute(delete(resource_statuses).where(of_this))
    changed = [
        {
            "data_plane_id": report.record.id,
            "name": name,
            "number": number,
            "status": status.SerializeToString() if status is not None else None,
        }
        for name, status in sorted(report.statuses.items())
    ]
    for first in range(0, len(changed), _STATUSES_PER_STATEMENT):
        statement = insert(resource_statuses).values(changed[first : first + _STATUSES_PER_STATEMENT])
        updated = {"number": statement.excluded.number, "status": statement.excluded.status}
        await connection.execute(
            statement.on_conflict_do_update(index_elements=["data_plane_id", "name"], set_=updated)
        )
    return True


async def _statuses_since(
    connection: Statements, rows: Sequence[Row[Any]], known: Mapping[str, int]
) -> Mapping[str, Mapping[str, status_pb2.ResourceStatus | None]]:
    """Statuses that have changed since `known`, by data plane id and name."""
    since = {
        row.data_plane_id: 0 if known.get(row.data_plane_id, 0) < row.replaced_number else known[row.data_plane_id]
        for row in rows
        if row.number != known.get(row.data_plane_id, 0)
    }
    if not since:
        return {}
    # One query for all of them: a fleet reports each change of the catalog at the same time.
    wanted = select(
        func.unnest(bindparam("ids", type_=ARRAY(Text))).label("id"),
        func.unnest(bindparam("numbers", type_=ARRAY(BigInteger))).label("since"),
    ).subquery()
    query = select(resource_statuses.c.data_plane_id, resource_statuses.c.name, resource_statuses.c.status).join(
        wanted,
        (wanted.c.id == resource_statuses.c.data_plane_id) & (resource_statuses.c.number > wanted.c.since),
    )
    found: dict[str, dict[str, status_pb2.ResourceStatus | None]] = {}
    for change in await connection.execute(query, {"ids": list(since), "numbers": list(since.values())}):
        status = status_pb2.ResourceStatus.FromString(change.status) if change.status is not None else None
        found.setdefault(change.data_plane_id, {})[change.name] = status
    return found


def _change(row: Row[Any], known: int, statuses: Mapping[str, status_pb2.ResourceStatus | None]) -> FleetChange:
    return FleetChange(
        record=data_plane(row),
        session=row.session,
        replica_uid=row.replica_uid,
        connected=row.connected and row.replica_alive,
        settled_revision=row.settled_revision,
        number=row.number,
        replace=known < row.replaced_number,
        statuses=statuses,
    )


async def notify(connection: WriteConnection) -> None:
    """Wake the other control planes when this transaction commits."""
    await connection.execute(select(func.pg_notify(FLEET_CHANNEL, "")))
