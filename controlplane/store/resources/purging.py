"""Deletes the rows of models and adapters whose purge time has come.

Deleted resources are in no snapshot and hold no served name, so a purge makes no catalog revision
and does not take the lock on the catalog. What it may collide with is a change that undeletes or
replaces the same resource. Both lock the resource's row first: a purge skips a row that a change
has locked, and a change that waited for a purge finds the row gone.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select

from controlplane.store.databases.connection import WriteConnection
from controlplane.store.schema import adapter_revisions, adapters, model_revisions, models
from controlplane.store.times import to_us


class Purge:
    """The resources whose purge time has come, on a connection that may write."""

    def __init__(self, connection: WriteConnection, now: datetime) -> None:
        self._connection = connection
        self._now_us = to_us(now)

    async def run(self, limit: int) -> int:
        """Delete up to `limit` of them for good. Returns how many were deleted."""
        query = (
            select(adapters.c.model_id, adapters.c.id)
            .where(adapters.c.purge_time_us <= self._now_us)
            .order_by(adapters.c.purge_time_us)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        expired_adapters = (await self._connection.execute(query)).all()
        for row in expired_adapters:
            await self._delete_adapter(row.model_id, row.id)
        if len(expired_adapters) == limit:
            return limit
        # Adapters refer to their model, so models go after them.
        expired = select(models.c.id).where(models.c.purge_time_us <= self._now_us).limit(limit)
        rows = await self._connection.execute(expired.with_for_update(skip_locked=True))
        expired_models = rows.scalars().all()
        for model_id in expired_models:
            await self._delete_model(model_id)
        return len(expired_adapters) + len(expired_models)

    async def model(self, model_id: str) -> None:
        """Delete the model of this id if its purge time has come, so that the id is free."""
        query = select(models.c.id).where(models.c.id == model_id, models.c.purge_time_us <= self._now_us)
        if (await self._connection.execute(query.with_for_update())).one_or_none() is not None:
            await self._delete_model(model_id)

    async def adapter(self, model_id: str, adapter_id: str) -> None:
        """Delete the adapter of this id if its purge time has come, so that the id is free."""
        query = select(adapters.c.id).where(
            adapters.c.model_id == model_id, adapters.c.id == adapter_id, adapters.c.purge_time_us <= self._now_us
        )
        if (await self._connection.execute(query.with_for_update())).one_or_none() is not None:
            await self._delete_adapter(model_id, adapter_id)

    async def _delete_model(self, model_id: str) -> None:
        await self._connection.execute(delete(adapter_revisions).where(adapter_revisions.c.model_id == model_id))
        await self._connection.execute(delete(adapters).where(adapters.c.model_id == model_id))
        await self._connection.execute(delete(model_revisions).where(model_revisions.c.model_id == model_id))
        await self._connection.execute(delete(models).where(models.c.id == model_id))

    async def _delete_adapter(self, model_id: str, adapter_id: str) -> None:
        of_adapter = (adapter_revisions.c.model_id == model_id) & (adapter_revisions.c.adapter_id == adapter_id)
        await self._connection.execute(delete(adapter_revisions).where(of_adapter))
        await self._connection.execute(
            delete(adapters).where(adapters.c.model_id == model_id, adapters.c.id == adapter_id)
        )
