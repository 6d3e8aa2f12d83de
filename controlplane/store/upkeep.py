"""Writes that make no catalog revision and do not wait for changes of the catalog."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from controlplane.catalog import domain
from controlplane.store.audit import AuditLog
from controlplane.store.databases.connection import WriteConnection
from controlplane.store.doors import WriteDoor
from controlplane.store.fleet.data_planes import DataPlaneRecords
from controlplane.store.resources.purging import Purge


class UpkeepWrites:
    """The part of the store that upkeep uses, and reports of data planes."""

    def __init__(self, door: WriteDoor, clock: Callable[[], datetime]) -> None:
        """
        Args:
            door: Where these transactions run.
            clock: The time in UTC, aware.
        """
        self._upkeep_door = door
        self._clock = clock

    async def upsert_data_plane(self, *records: domain.DataPlaneRecord) -> None:
        """Write records of data planes in place of earlier ones, in one transaction.

        Raises:
            errors.Unavailable: the database failed.
        """

        async def change(connection: WriteConnection) -> None:
            await DataPlaneRecords(connection).put(*records)
            await DataPlaneRecords(connection).put_changes(records)

        await self._upkeep_door.run(change)

    async def purge_expired(self, limit: int = 100) -> int:
        """Delete for good up to `limit` models and adapters whose purge time has come.

        Returns:
            How many were deleted.

        Raises:
            errors.Unavailable: the database failed.
        """

        async def change(connection: WriteConnection) -> int:
            return await Purge(connection, self._clock()).run(limit)

        return await self._upkeep_door.run(change)

    async def delete_audit_events(self, *, before: datetime, limit: int) -> int:
        """Delete up to `limit` of the oldest audit events from before this time. Returns how many.

        Raises:
            errors.Unavailable: the database failed.
        """

        async def change(connection: WriteConnection) -> int:
            return await AuditLog(connection).delete(before=before, limit=limit)

        return await self._upkeep_door.run(change)
