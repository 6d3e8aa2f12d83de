"""Removes data planes, within a change."""

from __future__ import annotations

from sqlalchemy import delete

from controlplane.store.databases.connection import WriteConnection
from controlplane.store.fleet.schema import data_plane_changes
from controlplane.store.fleet.tables import notify
from controlplane.store.schema import data_plane_reports, data_planes, resource_statuses


class DataPlaneRemovals:
    """The data planes that a transaction removes."""

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection
        self.count = 0
        """Data planes that were removed."""

    async def remove(self, data_plane_id: str) -> None:
        """Delete all that is stored of a data plane, if anything is."""
        # First the row that every report locks and needs: a report that is being written ends
        # before, and a later one is dropped.
        for column in (
            data_plane_reports.c.data_plane_id,
            data_planes.c.id,
            resource_statuses.c.data_plane_id,
            data_plane_changes.c.data_plane_id,
        ):
            await self._connection.execute(delete(column.table).where(column == data_plane_id))
        if self._connection.dialect.name == "postgresql":
            await notify(self._connection)
        self.count += 1
