"""What is known of data planes: their rows, and how they are read and written."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Executable, Row, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from broadsheet.v1 import snapshot_pb2, snapshot_service_pb2
from controlplane.catalog import convert, domain
from controlplane.store.databases.connection import Query, WriteConnection
from controlplane.store.fleet.schema import data_plane_changes
from controlplane.store.reading import Reading
from controlplane.store.schema import data_planes
from controlplane.store.times import from_us, to_us

_SLOTS = range(domain.HISTORY_MAX)
_KEY = ("slot", "data_plane_id")


_OTHERS = tuple(column.name for column in data_plane_changes.c if column.name not in _KEY)


def _put_change(statement: sqlite.Insert | postgresql.Insert) -> Executable:
    values = {name: statement.excluded[name] for name in _OTHERS}
    return statement.on_conflict_do_update(index_elements=_KEY, set_=values)


_PUT_CHANGE_SQLITE = _put_change(sqlite.insert(data_plane_changes))
_PUT_CHANGE_POSTGRES = _put_change(postgresql.insert(data_plane_changes))
_BY_ID = Query(select(data_planes).where(data_planes.c.id == bindparam("id")), data_planes, key=("id",))


class DataPlanes:
    """What is known of data planes. It is no part of the catalog.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def find(self, data_plane_id: str) -> domain.DataPlaneRecord | None:
        """What is known of a data plane. None: it has never connected."""
        rows = await self._reading.fetch(_BY_ID, id=data_plane_id)
        return data_plane(rows[0]) if rows else None

    async def list(self, *, after_id: str = "", limit: int = 1000) -> Sequence[domain.DataPlaneRecord]:
        """Up to `limit` data planes by id; only those after `after_id`."""
        query = select(data_planes).where(data_planes.c.id > after_id).order_by(data_planes.c.id).limit(limit)
        async with self._reading.begin() as connection:
            return [data_plane(row) for row in await connection.execute(query)]

    async def history(self, data_plane_id: str) -> Sequence[domain.PositionChange]:
        """The kept changes of a data plane, newest first."""
        of_this = (data_plane_changes.c.data_plane_id == data_plane_id) & data_plane_changes.c.slot.in_(_SLOTS)
        query = select(data_plane_changes).where(of_this).order_by(data_plane_changes.c.number.desc())
        async with self._reading.begin() as connection:
            return [_change(row) for row in await connection.execute(query)]


class DataPlaneRecords:
    """Writes what is known of data planes, on a connection that may write."""

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    async def put(self, *records: domain.DataPlaneRecord) -> None:
        """Write the records of data planes in place of earlier ones.

        In one statement: without the lock on the catalog, another control plane may insert the same
        row meanwhile.
        """
        rows = [data_plane_values(record) for record in records]
        if rows:
            await self._connection.execute_many(_put_statement(self._connection.dialect.name, tuple(rows[0])), rows)

    async def put_changes(self, records: Sequence[domain.DataPlaneRecord]) -> None:
        """Write the changes in these records into the histories, all in one statement."""
        rows = [_change_values(record.id, change) for record in records for change in record.changes]
        if not rows:
            return
        is_shared = self._connection.dialect.name == "postgresql"
        await self._connection.execute(_PUT_CHANGE_POSTGRES if is_shared else _PUT_CHANGE_SQLITE, rows)


@functools.cache
def _put_statement(dialect: str, columns: tuple[str, ...]) -> Executable:
    """Writes these columns. Made once: making it costs as much as running it for 50 rows."""
    insert = postgresql.insert(data_planes) if dialect == "postgresql" else sqlite.insert(data_planes)
    named = insert.values({column: bindparam(column) for column in columns})
    return named.on_conflict_do_update(
        index_elements=["id"], set_={column: named.excluded[column] for column in columns}
    )


def data_plane(row: Row[Any]) -> domain.DataPlaneRecord:
    """A row of data_planes."""
    return domain.DataPlaneRecord(
        id=row.id,
        instance_uid=row.instance_uid,
        serving=_position(row.serving),
        target=_position(row.target),
        phase=snapshot_service_pb2.Phase.ValueType(row.phase),
        reason=row.reason,
        message=row.message,
        http_address=row.http_address,
        software_version=row.software_version,
        connect_time=from_us(row.connect_time_us),
        last_seen_time=from_us(row.last_seen_time_us),
        identity=domain.Identity(row.identity),
        change_count=row.change_count,
        revocations_sequence=row.revocations_sequence,
        labels=row.labels,
    )


def data_plane_values(record: domain.DataPlaneRecord) -> Mapping[str, object]:
    """A data plane's row in `data_planes`."""
    return {
        "id": record.id,
        "instance_uid": record.instance_uid,
        "serving": _position_bytes(record.serving),
        "target": _position_bytes(record.target),
        "phase": int(record.phase),
        "reason": record.reason,
        "message": record.message,
        "http_address": record.http_address,
        "software_version": record.software_version,
        "connect_time_us": to_us(record.connect_time),
        "last_seen_time_us": to_us(record.last_seen_time),
        "identity": record.identity.value,
        "labels": dict(record.labels),
        "revocations_sequence": record.revocations_sequence,
        "change_count": record.change_count,
    }


def _change(row: Row[Any]) -> domain.PositionChange:
    return domain.PositionChange(
        number=row.number,
        time=from_us(row.time_us),
        serving=_position(row.serving),
        phase=snapshot_service_pb2.Phase.ValueType(row.phase),
        reason=row.reason,
        rejected=_position(row.rejected),
    )


def _change_values(data_plane_id: str, change: domain.PositionChange) -> Mapping[str, object]:
    return {
        "slot": change.number % domain.HISTORY_MAX,
        "data_plane_id": data_plane_id,
        "number": change.number,
        "time_us": to_us(change.time),
        "serving": _position_bytes(change.serving),
        "phase": int(change.phase),
        "reason": change.reason,
        "rejected": _position_bytes(change.rejected),
    }


def _position(serialised: bytes | None) -> domain.Position | None:
    return convert.position_from_proto(snapshot_pb2.Position.FromString(serialised)) if serialised is not None else None


def _position_bytes(position: domain.Position | None) -> bytes | None:
    return convert.position_to_proto(position).SerializeToString() if position is not None else None
