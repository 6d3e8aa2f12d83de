"""What routes refer to, and the snapshot entries of the revisions that they pin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, insert, select

from controlplane.catalog import domain, snapshot
from controlplane.store.resources import adapter_rows, model_rows
from controlplane.store.resources.change import CatalogChange
from controlplane.store.schema import adapter_revisions, adapters, model_revisions, models
from controlplane.store.schema import route_references as table
from protocol import names


class RouteReferences:
    """The references of all routes, in a write transaction.

    Invariant: the entry of a revision is in the snapshot exactly while a route pins that revision.
    """

    def __init__(self, change: CatalogChange) -> None:
        self._connection = change.connection
        self._entries = change.entries

    async def replace(self, route_id: str, before: Sequence[names.Target], after: Sequence[names.Target]) -> None:
        """Replace the references of a route, and add or remove the entries of pinned revisions."""
        for target in before:
            if target not in after:
                await self._remove(route_id, target)
        for target in after:
            if target not in before:
                await self._add(route_id, target)

    async def _remove(self, route_id: str, target: names.Target) -> None:
        await self._connection.execute(delete(table).where(table.c.route_id == route_id, *_matching(target)))
        if target.number is not None and not await self._is_referred_to(target):
            await self._entries.set(target.name, None)

    async def _add(self, route_id: str, target: names.Target) -> None:
        is_pinned = await self._is_referred_to(target)
        await self._connection.execute(insert(table).values(route_id=route_id, **_values(target)))
        if target.number is not None and not is_pinned:
            await self._entries.set(target.name, await self._pinned_entry(target, target.number))

    async def _is_referred_to(self, target: names.Target) -> bool:
        query = select(table.c.route_id).where(*_matching(target)).limit(1)
        return (await self._connection.execute(query)).one_or_none() is not None

    async def _pinned_entry(self, target: names.Target, number: int) -> domain.Entry:
        """The entry of a revision that exists."""
        if target.adapter_id is None:
            query: Select[Any] = (
                select(model_revisions, models.c.uid)
                .join(models, models.c.id == model_revisions.c.model_id)
                .where(model_revisions.c.model_id == target.model_id, model_revisions.c.number == number)
            )
            row = (await self._connection.execute(query)).one()
            return snapshot.model_revision_entry(target.model_id, row.uid, model_rows.model_revision(row))
        query = (
            select(adapter_revisions, adapters.c.uid)
            .join(
                adapters,
                (adapters.c.model_id == adapter_revisions.c.model_id)
                & (adapters.c.id == adapter_revisions.c.adapter_id),
            )
            .where(
                adapter_revisions.c.model_id == target.model_id,
                adapter_revisions.c.adapter_id == target.adapter_id,
                adapter_revisions.c.number == number,
            )
        )
        row = (await self._connection.execute(query)).one()
        revision = adapter_rows.adapter_revision(row)
        return snapshot.adapter_revision_entry(target.model_id, target.adapter_id, row.uid, revision)


def _values(target: names.Target) -> Mapping[str, str | int]:
    return {"model_id": target.model_id, "adapter_id": target.adapter_id or "", "number": target.number or 0}


def _matching(target: names.Target) -> Sequence[ColumnElement[bool]]:
    return [table.c[column] == value for column, value in _values(target).items()]
