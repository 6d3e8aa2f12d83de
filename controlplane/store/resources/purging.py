"""Statements about deleted models and adapters: what came along with a deletion, and what goes for
good."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane.catalog import domain
from controlplane.store.resources import rows as store_rows
from controlplane.store.schema import adapter_revisions, adapters, model_revisions, models


async def adapters_deleted_with(connection: AsyncConnection, model: domain.Model) -> Sequence[domain.Adapter]:
    """The adapters that were deleted by the change that deleted `model`, by id."""
    query = store_rows.SELECT_ADAPTERS.where(
        adapters.c.model_id == model.id,
        adapters.c.delete_time_us.is_not(None),
        # A deletion is the last change of what it deletes, so both were deleted in the same catalog
        # revision.
        adapters.c.catalog_revision == model.catalog_revision,
    ).order_by(adapters.c.id)
    return [store_rows.adapter(row) for row in await connection.execute(query)]


async def purge_model(connection: AsyncConnection, model_id: str) -> None:
    """Delete the rows of a deleted model, and of its adapters."""
    await connection.execute(delete(adapter_revisions).where(adapter_revisions.c.model_id == model_id))
    await connection.execute(delete(adapters).where(adapters.c.model_id == model_id))
    await connection.execute(delete(model_revisions).where(model_revisions.c.model_id == model_id))
    await connection.execute(delete(models).where(models.c.id == model_id))


async def purge_adapter(connection: AsyncConnection, model_id: str, adapter_id: str) -> None:
    """Delete the rows of a deleted adapter."""
    await connection.execute(
        delete(adapter_revisions).where(
            adapter_revisions.c.model_id == model_id, adapter_revisions.c.adapter_id == adapter_id
        )
    )
    await connection.execute(delete(adapters).where(adapters.c.model_id == model_id, adapters.c.id == adapter_id))


async def purge_expired(connection: AsyncConnection, now: datetime, limit: int) -> int:
    """Delete for good up to `limit` models and adapters whose purge time has come. Returns how many
    those were."""
    now_us = store_rows.to_us(now)
    query = (
        select(adapters.c.model_id, adapters.c.id)
        .where(adapters.c.purge_time_us <= now_us)
        .order_by(adapters.c.purge_time_us)
        .limit(limit)
    )
    expired_adapters = (await connection.execute(query)).all()
    for row in expired_adapters:
        await purge_adapter(connection, row.model_id, row.id)
    # A model outlives its adapters: they go first.
    expired_models = (
        (await connection.execute(select(models.c.id).where(models.c.purge_time_us <= now_us).limit(limit)))
        .scalars()
        .all()
        if len(expired_adapters) < limit
        else ()
    )
    for model_id in expired_models:
        await purge_model(connection, model_id)
    return len(expired_adapters) + len(expired_models)
