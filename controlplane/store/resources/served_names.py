"""Served names: one flat namespace over models, adapters and routes."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, delete, select, update

from controlplane.store.databases.connection import Query, WriteConnection
from controlplane.store.reading import Fetch
from controlplane.store.schema import served_names as table

_HOLDER = Query(
    select(table.c.resource).where(table.c.served_name == bindparam("served_name")), table, key=("served_name",)
)


async def holder_of(fetch: Fetch, served_name: str) -> str | None:
    """Name of the resource that holds this served name. None: it is free."""
    rows = await fetch(_HOLDER, served_name=served_name)
    return rows[0].resource if rows else None


class ServedNames:
    """The served names that resources hold, in a transaction that writes."""

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    async def holder_of(self, served_name: str) -> str | None:
        """Name of the resource that holds this served name. None: it is free."""
        return await holder_of(self._connection.fetch, served_name)

    async def take(self, resource: str, served_name: str, previous: str | None) -> None:
        """Give a resource this served name in place of `previous`. None: it holds none."""
        if previous is None:
            await self._connection.insert(table, {"served_name": served_name, "resource": resource})
        elif previous != served_name:
            await self.replace(resource, served_name)

    async def replace(self, resource: str, served_name: str) -> None:
        """Give a resource that holds a served name this one instead."""
        await self._connection.execute(
            update(table).where(table.c.resource == resource).values(served_name=served_name)
        )

    async def release(self, resource: str) -> None:
        """Free the served name of a resource that is deleted."""
        await self._connection.execute(delete(table).where(table.c.resource == resource))

    async def free_all(self, resources: Sequence[str]) -> None:
        """Move these resources to placeholder names, so that their served names are free.

        The caller gives each of them a name again before the transaction ends.
        """
        query = select(table.c.resource).where(table.c.resource.in_(resources))
        for resource in (await self._connection.execute(query)).scalars().all():
            # No served name can have this form, so it collides with none.
            await self.replace(resource, f"~{resource}")
