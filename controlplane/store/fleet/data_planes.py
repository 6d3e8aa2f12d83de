"""What is known of data planes: their rows, and how they are read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.dialects import postgresql, sqlite

from broadsheet.v1 import snapshot_pb2, snapshot_service_pb2
from controlplane.catalog import convert, domain
from controlplane.store.databases.connection import WriteConnection
from controlplane.store.reading import Reading
from controlplane.store.schema import data_planes
from controlplane.store.times import from_us, to_us


class DataPlanes:
    """What is known of data planes. It is no part of the catalog.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def find(self, data_plane_id: str) -> domain.DataPlaneRecord | None:
        """What is known of a data plane. None: it has never connected."""
        query = select(data_planes).where(data_planes.c.id == data_plane_id)
        async with self._reading.begin() as connection:
            row = (await connection.execute(query)).one_or_none()
        return data_plane(row) if row is not None else None

    async def list(self, *, after_id: str = "", limit: int = 1000) -> Sequence[domain.DataPlaneRecord]:
        """Up to `limit` data planes by id; only those after `after_id`."""
        query = select(data_planes).where(data_planes.c.id > after_id).order_by(data_planes.c.id).limit(limit)
        async with self._reading.begin() as connection:
            return [data_plane(row) for row in await connection.execute(query)]


class DataPlaneRecords:
    """Writes what is known of data planes, on a connection that may write."""

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    async def put(self, record: domain.DataPlaneRecord) -> None:
        """Write the record of a data plane in place of an earlier one.

        In one statement: without the lock on the catalog, another control plane may insert the same
        row meanwhile.
        """
        values = dict(data_plane_values(record))
        statement = (
            postgresql.insert(data_planes).values(**values).on_conflict_do_update(index_elements=["id"], set_=values)
            if self._connection.dialect.name == "postgresql"
            else sqlite.insert(data_planes).values(**values).on_conflict_do_update(index_elements=["id"], set_=values)
        )
        await self._connection.execute(statement)


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
    }


def _position(serialised: bytes | None) -> domain.Position | None:
    return convert.position_from_proto(snapshot_pb2.Position.FromString(serialised)) if serialised is not None else None


def _position_bytes(position: domain.Position | None) -> bytes | None:
    return convert.position_to_proto(position).SerializeToString() if position is not None else None
