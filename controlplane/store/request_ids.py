"""Statements about requests that were carried out under an id (`request_ids.py`)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane.catalog.request_ids import AnsweredRequest
from controlplane.store.resources import rows as store_rows
from controlplane.store.schema import answered_requests

_EXPIRED_DELETED_MAX = 16
"""Expired rows that one write deletes: more than it adds, so they go, and few, so none of the
writes is slow."""


async def find(connection: AsyncConnection, request_id: str, *, since: datetime) -> AnsweredRequest | None:
    """The request that was carried out under this id after `since`, if there was one."""
    query = select(answered_requests).where(
        answered_requests.c.request_id == request_id, answered_requests.c.create_time_us > store_rows.to_us(since)
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    return AnsweredRequest(
        request_id=row.request_id,
        method=row.method,
        digest=row.digest,
        response=row.response,
        create_time=store_rows.from_us(row.create_time_us),
    )


async def keep(connection: AsyncConnection, answered: AnsweredRequest, *, since: datetime) -> None:
    """Keep a request that was carried out, in place of an expired one of the same id; forget some
    of before `since`."""
    expired = (
        select(answered_requests.c.request_id)
        .where(answered_requests.c.create_time_us <= store_rows.to_us(since))
        .order_by(answered_requests.c.create_time_us)
        .limit(_EXPIRED_DELETED_MAX)
    )
    await connection.execute(
        delete(answered_requests).where(
            answered_requests.c.request_id.in_(expired) | (answered_requests.c.request_id == answered.request_id)
        )
    )
    await connection.execute(
        insert(answered_requests).values(
            request_id=answered.request_id,
            method=answered.method,
            digest=answered.digest,
            response=answered.response,
            create_time_us=store_rows.to_us(answered.create_time),
        )
    )
