"""Requests that were carried out under a request id, with their answers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Integer, Row, bindparam, delete, select

from controlplane.catalog.request_ids import AnsweredRequest
from controlplane.store.databases.connection import Query, WriteConnection
from controlplane.store.reading import Reading
from controlplane.store.schema import answered_requests
from controlplane.store.times import from_us, to_us

_DELETED_FOR_EACH_KEPT = 16
"""Expired rows that are deleted at most for each new one: several, so that the table shrinks, and
few, so that no write is slow."""

_BY_ID = Query(
    select(answered_requests).where(answered_requests.c.request_id == bindparam("request_id")),
    answered_requests,
    key=("request_id",),
)
_DELETE_EXPIRED = delete(answered_requests).where(
    answered_requests.c.request_id.in_(
        select(answered_requests.c.request_id)
        .where(answered_requests.c.create_time_us <= bindparam("until_us"))
        .order_by(answered_requests.c.create_time_us)
        .limit(bindparam("count", type_=Integer))
    )
)


class AnsweredRequests:
    """The requests that were carried out, by request id.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def find(self, request_id: str, retention: timedelta) -> AnsweredRequest | None:
        """The request that was carried out under this id within the last `retention`, if any."""
        rows = await self._reading.fetch(_BY_ID, request_id=request_id)
        if not rows or rows[0].create_time_us <= to_us(self._reading.now() - retention):
            return None
        return _answered(rows[0])


class AnsweredRequestChanges(AnsweredRequests):
    """The same in a write transaction."""

    def __init__(self, connection: WriteConnection, reading: Reading) -> None:
        super().__init__(reading)
        self._connection = connection
        self._expired: set[str] = set()
        self.kept = 0
        """Requests that `keep` has kept."""

    async def find(self, request_id: str, retention: timedelta) -> AnsweredRequest | None:
        """The request that was carried out under this id within the last `retention`, if any."""
        rows = await self._connection.fetch(_BY_ID, request_id=request_id)
        if not rows:
            return None
        if rows[0].create_time_us <= to_us(self._reading.now() - retention):
            self._expired.add(request_id)
            return None
        return _answered(rows[0])

    async def keep(self, answered: AnsweredRequest) -> None:
        """Keep a request that this change carries out, after `find` has not found it.

        It replaces an expired one of the same id.
        """
        table = answered_requests
        if answered.request_id in self._expired:
            await self._connection.execute(delete(table).where(table.c.request_id == answered.request_id))
        row = {
            "request_id": answered.request_id,
            "method": answered.method,
            "digest": answered.digest,
            "response": answered.response,
            "create_time_us": to_us(answered.create_time),
        }
        await self._connection.insert(table, row)
        self.kept += 1


def delete_expired(connection: WriteConnection, until: datetime, *, kept: int) -> None:
    """Delete some of the requests that were carried out until this time.

    Args:
        connection: In the transaction that keeps other requests.
        until: Older ones are forgotten.
        kept: How many requests the transaction keeps.
    """
    parameters = {"until_us": to_us(until), "count": kept * _DELETED_FOR_EACH_KEPT}
    connection.put_last(answered_requests, _DELETE_EXPIRED, parameters)


def _answered(row: Row[Any]) -> AnsweredRequest:
    return AnsweredRequest(
        request_id=row.request_id,
        method=row.method,
        digest=row.digest,
        response=row.response,
        create_time=from_us(row.create_time_us),
    )
