"""What is common to models and adapters: deletion, and until when a deleted row is visible."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, Table, update

from controlplane.catalog import domain
from controlplane.store.resources.change import CatalogChange
from controlplane.store.times import to_us


def is_purged(resource: domain.Model | domain.Adapter, now: datetime) -> bool:
    """Whether its purge time has come. It does not exist any more then, though its row may."""
    return resource.purge_time is not None and resource.purge_time <= now


def visible(table: Table, now: datetime, *, show_deleted: bool) -> ColumnElement[bool]:
    """The rows of `models` or `adapters` that a reader sees at `now`."""
    if not show_deleted:
        return table.c.delete_time_us.is_(None)
    return table.c.purge_time_us.is_(None) | (table.c.purge_time_us > to_us(now))


def held_name(resource: domain.Model | domain.Adapter | None) -> str | None:
    """The served name that a resource holds. A deleted resource holds none."""
    return resource.served_name if resource is not None and resource.delete_time is None else None


async def mark_deleted(change: CatalogChange, table: Table, name: str, condition: ColumnElement[bool]) -> None:
    """Mark a row as deleted, release its served name and remove its entry."""
    now_us = to_us(change.stamp.now)
    await change.served_names.release(name)
    await change.connection.execute(
        update(table)
        .where(condition)
        .values(
            delete_time_us=now_us,
            purge_time_us=to_us(change.stamp.purge_time),
            update_time_us=now_us,
            catalog_revision=change.stamp.catalog_revision,
        )
    )
    await change.entries.set(name, None)
