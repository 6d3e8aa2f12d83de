"""Enrolments of data planes in the database."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from controlplane.catalog.data_planes.enrollment import Enrollment, EnrollmentReading
from controlplane.store.databases.connection import WriteConnection
from controlplane.store.fleet.schema import data_plane_enrollments as table
from controlplane.store.reading import Reading
from controlplane.store.schema import catalog
from controlplane.store.times import from_us, from_us_or_null, to_us, to_us_or_null


class Enrollments:
    """The enrolments. Every method raises errors.Unavailable when the database fails."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def now(self) -> datetime:
        """The time by which changes are marked, and tokens expire (UTC, aware)."""
        return self._reading.now()

    async def changes(self) -> int:
        """How many changes there were so far. Costs the read of one row."""
        async with self._reading.begin() as connection:
            return int((await connection.execute(select(catalog.c.enrollment_changes))).scalar_one())

    async def since(self, changes: int) -> EnrollmentReading:
        """What has changed after so many changes."""
        query = select(table).where(table.c.number > changes)
        async with self._reading.begin() as connection:
            return EnrollmentReading(
                changes=(await connection.execute(select(catalog.c.enrollment_changes))).scalar_one(),
                count=(await connection.execute(select(func.count()).select_from(table))).scalar_one(),
                changed=[_enrollment(row) for row in await connection.execute(query)],
            )


class EnrollmentChanges:
    """The enrolments in a write transaction, which holds the lock on the catalog."""

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection
        self.count = 0
        """Enrolments that were written or removed."""

    async def find(self, data_plane_id: str) -> Enrollment | None:
        """The enrolment of a data plane. None: there is none."""
        query = select(table).where(table.c.data_plane_id == data_plane_id)
        row = (await self._connection.execute(query)).one_or_none()
        return _enrollment(row) if row is not None else None

    async def has_credential(self, credential_hash: bytes) -> bool:
        """Whether some data plane has this credential."""
        query = select(func.count()).select_from(table).where(table.c.credential_hash == credential_hash)
        return bool((await self._connection.execute(query)).scalar_one())

    async def count_all(self) -> int:
        """How many there are."""
        return int((await self._connection.execute(select(func.count()).select_from(table))).scalar_one())

    async def put(self, enrollment: Enrollment) -> None:
        """Write an enrolment in place of an earlier one."""
        await self._changed()
        await self._connection.execute(delete(table).where(table.c.data_plane_id == enrollment.data_plane_id))
        await self._connection.execute(
            insert(table).values(
                data_plane_id=enrollment.data_plane_id,
                number=select(catalog.c.enrollment_changes).scalar_subquery(),
                token_hash=enrollment.token_hash,
                token_expire_time_us=to_us(enrollment.token_expire_time),
                token_spend_time_us=to_us_or_null(enrollment.token_spend_time),
                credential_hash=enrollment.credential_hash,
                enroll_time_us=to_us_or_null(enrollment.enroll_time),
            )
        )

    async def remove(self, data_plane_id: str) -> bool:
        """Delete the enrolment of a data plane. Returns whether there was one."""
        of_this = table.c.data_plane_id == data_plane_id
        found = (await self._connection.execute(select(func.count()).select_from(table).where(of_this))).scalar_one()
        if found:
            await self._connection.execute(delete(table).where(of_this))
            await self._changed()
        return bool(found)

    async def _changed(self) -> None:
        await self._connection.execute(update(catalog).values(enrollment_changes=catalog.c.enrollment_changes + 1))
        self.count += 1


def _enrollment(row: Row[Any]) -> Enrollment:
    return Enrollment(
        data_plane_id=row.data_plane_id,
        token_hash=row.token_hash,
        token_expire_time=from_us(row.token_expire_time_us),
        token_spend_time=from_us_or_null(row.token_spend_time_us),
        credential_hash=row.credential_hash,
        enroll_time=from_us_or_null(row.enroll_time_us),
    )
