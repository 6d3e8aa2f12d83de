"""Routes in the store: their rows, how they are read, and what writing one does to the catalog."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import Row, Select, Table, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from broadsheet.v1 import adapter_pb2, model_pb2, route_pb2
from controlplane.catalog import domain, routes, snapshot
from controlplane.catalog.domain import Stamp
from controlplane.catalog.routes import Route, RouteRevision, route_not_found
from controlplane.store.resources import rows as store_rows
from controlplane.store.schema import adapter_revisions, adapters, model_revisions, models, served_names
from controlplane.store.schema import route_references as references
from controlplane.store.schema import route_revisions as revisions
from controlplane.store.schema import routes as table
from protocol import names

_SELECT_ROUTES: Select[Any] = select(
    table,
    revisions.c.spec,
    revisions.c.create_time_us.label("revision_create_time_us"),
    revisions.c.catalog_revision.label("revision_catalog_revision"),
).join(revisions, (revisions.c.route_id == table.c.id) & (revisions.c.number == table.c.revision_number))
"""Routes with their current revision."""


class RouteReads(ABC):
    """The part of the store that reads routes.

    Every method raises errors.Unavailable when the database fails.
    """

    @abstractmethod
    def _begin_read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A transaction for reading."""

    async def get_route(self, route_id: str) -> Route:
        """The route of this id.

        Raises:
            errors.NotFound: there is none.
        """
        async with self._begin_read() as connection:
            route = await _find_route(connection, route_id)
        if route is None:
            raise route_not_found(names.route_name(route_id))
        return route

    async def list_routes(self, *, after_id: str, limit: int) -> Sequence[Route]:
        """Routes by id; those after `after_id`."""
        query = _SELECT_ROUTES.where(table.c.id > after_id).order_by(table.c.id).limit(limit)
        async with self._begin_read() as connection:
            return [_route(row) for row in await connection.execute(query)]

    async def list_route_revisions(
        self, route_id: str, *, before_number: int | None, limit: int
    ) -> Sequence[RouteRevision]:
        """Revisions of a route, newest first; those before `before_number` if it is given.

        Raises:
            errors.NotFound: there is no such route.
        """
        query = (
            select(revisions).where(revisions.c.route_id == route_id).order_by(revisions.c.number.desc()).limit(limit)
        )
        if before_number is not None:
            query = query.where(revisions.c.number < before_number)
        async with self._begin_read() as connection:
            if await _find_route(connection, route_id) is None:
                raise route_not_found(names.route_name(route_id))
            return [_route_revision(row) for row in await connection.execute(query)]


class RouteWrites(ABC):
    """The part of a write transaction that is about routes.

    Invariant: a revision's entry is in the snapshot exactly while a route pins that revision.
    """

    _connection: AsyncConnection
    stamp: Stamp

    @abstractmethod
    async def _put(self, table: Table, values: Mapping[str, object], key: Mapping[str, object] | None) -> None:
        """Insert a row, or update the one with this key."""

    @abstractmethod
    async def _name(self, resource: str, served_name: str, previous: str | None) -> None:
        """Take a served name in place of the one before."""

    @abstractmethod
    async def _set_entry(self, name: str, entry: domain.Entry | None) -> None:
        """Make this the entry of that name from this revision on; None: there is none."""

    async def route(self, route_id: str) -> Route | None:
        """The route of this id, if there is one."""
        return await _find_route(self._connection, route_id)

    async def adapter_rank(self, target: names.Target) -> int | None:
        """The rank of the adapter, or adapter revision, that a route refers to. None: there is no
        such thing."""
        live = select(adapters.c.rank).where(
            adapters.c.model_id == target.model_id,
            adapters.c.id == target.adapter_id,
            adapters.c.delete_time_us.is_(None),
        )
        current_rank: int | None = (await self._connection.execute(live)).scalar_one_or_none()
        if current_rank is None or target.number is None:
            return current_rank
        query = select(adapter_revisions.c.weights).where(
            adapter_revisions.c.model_id == target.model_id,
            adapter_revisions.c.adapter_id == target.adapter_id,
            adapter_revisions.c.number == target.number,
        )
        weights = (await self._connection.execute(query)).scalar_one_or_none()
        return adapter_pb2.AdapterWeights.FromString(weights).rank if weights is not None else None

    async def model_revision(self, model_id: str, number: int) -> domain.ModelRevision | None:
        """A revision of a model, if there is one."""
        query = select(model_revisions).where(
            model_revisions.c.model_id == model_id, model_revisions.c.number == number
        )
        row = (await self._connection.execute(query)).one_or_none()
        return store_rows.model_revision(row) if row is not None else None

    async def routes_to(self, model_id: str, adapter_id: str | None = None) -> Sequence[Route]:
        """The routes that refer to a model, its revisions or its adapters; or to one adapter and
        its revisions."""
        matching = references.c.model_id == model_id
        if adapter_id is not None:
            matching &= references.c.adapter_id == adapter_id
        query = _SELECT_ROUTES.where(table.c.id.in_(select(references.c.route_id).where(matching))).order_by(table.c.id)
        return [_route(row) for row in await self._connection.execute(query)]

    async def put_route(self, route: Route, previous: Route | None) -> None:
        """Write a route in place of `previous`, what is there now.

        Raises:
            errors.InvalidArgument: its entry is too large.
        """
        entry = snapshot.route_entry(route)
        await self._put(table, _route_values(route), {"id": route.id} if previous is not None else None)
        if previous is None or previous.revision.number != route.revision.number:
            await self._connection.execute(insert(revisions).values(**_route_revision_values(route)))
            before = routes.references(previous.revision.spec) if previous is not None else ()
            await self._refer(route.id, before, routes.references(route.revision.spec))
        await self._name(route.name, route.served_name, previous.served_name if previous is not None else None)
        await self._set_entry(route.name, entry)

    async def delete_route(self, route: Route) -> None:
        """Delete a route, and what only it pinned from the snapshot."""
        await self._refer(route.id, routes.references(route.revision.spec), ())
        await self._connection.execute(delete(served_names).where(served_names.c.resource == route.name))
        await self._connection.execute(delete(table).where(table.c.id == route.id))
        await self._set_entry(route.name, None)

    async def _refer(self, route_id: str, before: Sequence[names.Target], after: Sequence[names.Target]) -> None:
        """Replace a route's references, and the entries of revisions that are now pinned or no
        longer are."""
        for target in before:
            if target not in after:
                key = _reference_values(target)
                conditions = [references.c[column] == value for column, value in key.items()]
                await self._connection.execute(delete(references).where(references.c.route_id == route_id, *conditions))
                if target.number is not None and not await self._is_referred_to(target):
                    await self._set_entry(target.name, None)
        for target in after:
            if target not in before:
                is_pinned = await self._is_referred_to(target)
                await self._connection.execute(
                    insert(references).values(route_id=route_id, **_reference_values(target))
                )
                if target.number is not None and not is_pinned:
                    await self._set_entry(target.name, await self._pinned_entry(target, target.number))

    async def _is_referred_to(self, target: names.Target) -> bool:
        conditions = [references.c[column] == value for column, value in _reference_values(target).items()]
        query = select(references.c.route_id).where(*conditions).limit(1)
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
            return snapshot.model_revision_entry(target.model_id, row.uid, store_rows.model_revision(row))
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
        return snapshot.adapter_revision_entry(target.model_id, target.adapter_id, row.uid, _adapter_revision(row))


async def _find_route(connection: AsyncConnection, route_id: str) -> Route | None:
    row = (await connection.execute(_SELECT_ROUTES.where(table.c.id == route_id))).one_or_none()
    return _route(row) if row is not None else None


def _route(row: Row[Any]) -> Route:
    return Route(
        id=row.id,
        uid=row.uid,
        served_name=row.served_name,
        labels=row.labels,
        revision=RouteRevision(
            number=row.revision_number,
            spec=route_pb2.RouteSpec.FromString(row.spec),
            create_time=store_rows.from_us(row.revision_create_time_us),
            catalog_revision=row.revision_catalog_revision,
        ),
        create_time=store_rows.from_us(row.create_time_us),
        update_time=store_rows.from_us(row.update_time_us),
        catalog_revision=row.catalog_revision,
    )


def _route_revision(row: Row[Any]) -> RouteRevision:
    return RouteRevision(
        number=row.number,
        spec=route_pb2.RouteSpec.FromString(row.spec),
        create_time=store_rows.from_us(row.create_time_us),
        catalog_revision=row.catalog_revision,
    )


def _adapter_revision(row: Row[Any]) -> domain.AdapterRevision:
    return domain.AdapterRevision(
        number=row.number,
        source=model_pb2.Source.FromString(row.source),
        weights=adapter_pb2.AdapterWeights.FromString(row.weights),
        card=adapter_pb2.AdapterCard.FromString(row.card),
        create_time=store_rows.from_us(row.create_time_us),
        catalog_revision=row.catalog_revision,
    )


def _route_values(route: Route) -> Mapping[str, object]:
    return {
        "id": route.id,
        "uid": route.uid,
        "served_name": route.served_name,
        "labels": dict(route.labels),
        "revision_number": route.revision.number,
        "create_time_us": store_rows.to_us(route.create_time),
        "update_time_us": store_rows.to_us(route.update_time),
        "catalog_revision": route.catalog_revision,
    }


def _route_revision_values(route: Route) -> Mapping[str, object]:
    return {
        "route_id": route.id,
        "number": route.revision.number,
        "spec": route.revision.spec.SerializeToString(deterministic=True),
        "create_time_us": store_rows.to_us(route.revision.create_time),
        "catalog_revision": route.revision.catalog_revision,
    }


def _reference_values(target: names.Target) -> Mapping[str, str | int]:
    return {"model_id": target.model_id, "adapter_id": target.adapter_id or "", "number": target.number or 0}
