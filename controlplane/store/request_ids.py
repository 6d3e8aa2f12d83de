"""Requests that were carried out under a request id, with their answers."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane.catalog.request_ids import AnsweredRequest
from controlplane.store.reading import Reading
from controlplane.store.schema import answered_requests
from controlplane.store.times import from_us, to_us

_EXPIRED_DELETED_MAX = 16
"""Expired rows that one write deletes: more than it adds, so that the table shrinks, and few, so
that no write is slow."""


class AnsweredRequests:
    """The requests that were carried out, by request id.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def find(self, request_id: str, retention: timedelta) -> AnsweredRequest | None:
        """The request that was carried out under this id within the last `retention`, if any."""
        since_us = to_us(self._reading.now() - retention)
        query = select(answered_requests).where(
            answered_requests.c.request_id == request_id, answered_requests.c.create_time_us > since_us
        )
        async with self._reading.begin() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        return AnsweredRequest(
            request_id=row.request_id,
            method=row.method,
            digest=row.digest,
            response=row.response,
            create_time=from_us(row.create_time_us),
        )


class AnsweredRequestChanges(AnsweredRequests):
    """The same in a write transaction."""

    def __init__(self, connection: AsyncConnection, reading: Reading) -> None:
        super().__init__(reading)
        self._connection = connection

    async def keep(self, answered: AnsweredRequest, retention: timedelta) -> None:
        """Keep a request that this transaction carries out.

        It replaces an expired one of the same id, and deletes some that are older than `retention`.
        """
        expired = (
            select(answered_requests.c.request_id)
            .where(answered_requests.c.create_time_us <= to_us(self._reading.now() - retention))
            .order_by(answered_requests.c.create_time_us)
            .limit(_EXPIRED_DELETED_MAX)
        )
        await self._connection.execute(
            delete(answered_requests).where(
                answered_requests.c.request_id.in_(expired) | (answered_requests.c.request_id == answered.request_id)
            )
        )
        await self._connection.execute(
            insert(answered_requests).values(
                request_id=answered.request_id,
                method=answered.method,
                digest=answered.digest,
                response=answered.response,
                create_time_us=to_us(answered.create_time),
            )
        )
