"""Routes in the database: how they are read, and what a change of one writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, Select, delete, select

from broadsheet.v1 import route_pb2
from controlplane.catalog import routes, snapshot
from controlplane.catalog.routes import Route, RouteRevision, route_not_found
from controlplane.store.reading import Reading
from controlplane.store.resources.change import CatalogChange
from controlplane.store.resources.references import RouteReferences
from controlplane.store.schema import route_references as references
from controlplane.store.schema import route_revisions as revisions
from controlplane.store.schema import routes as table
from controlplane.store.times import from_us, to_us
from protocol import names

_SELECT_ROUTES: Select[Any] = select(
    table,
    revisions.c.spec,
    revisions.c.create_time_us.label("revision_create_time_us"),
    revisions.c.catalog_revision.label("revision_catalog_revision"),
).join(revisions, (revisions.c.route_id == table.c.id) & (revisions.c.number == table.c.revision_number))
"""Routes with their current revision."""


class Routes:
    """The routes.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def find(self, route_id: str) -> Route | None:
        """The route of this id. None: there is none."""
        async with self._reading.begin() as connection:
            row = (await connection.execute(_SELECT_ROUTES.where(table.c.id == route_id))).one_or_none()
        return _route(row) if row is not None else None

    async def get(self, route_id: str) -> Route:
        """The route of this id.

        Raises:
            errors.NotFound: there is none.
        """
        route = await self.find(route_id)
        if route is None:
            raise route_not_found(names.route_name(route_id))
        return route

    async def list(self, *, after_id: str, limit: int) -> Sequence[Route]:
        """Up to `limit` routes by id; only those after `after_id`."""
        query = _SELECT_ROUTES.where(table.c.id > after_id).order_by(table.c.id).limit(limit)
        async with self._reading.begin() as connection:
            return [_route(row) for row in await connection.execute(query)]

    async def list_revisions(self, route_id: str, *, before_number: int | None, limit: int) -> Sequence[RouteRevision]:
        """Revisions of a route, newest first.

        Args:
            route_id: The route.
            before_number: Only revisions before this one. None: from the newest on.
            limit: Revisions at most.

        Raises:
            errors.NotFound: there is no such route.
        """
        query = (
            select(revisions).where(revisions.c.route_id == route_id).order_by(revisions.c.number.desc()).limit(limit)
        )
        if before_number is not None:
            query = query.where(revisions.c.number < before_number)
        async with self._reading.begin() as connection:
            await Routes(self._reading.on(connection)).get(route_id)
            return [_route_revision(row) for row in await connection.execute(query)]

    async def list_referring_to(self, model_id: str, adapter_id: str | None = None) -> Sequence[Route]:
        """The routes that refer to a model, its revisions or its adapters, by id.

        Args:
            model_id: The model.
            adapter_id: Only routes that refer to this adapter of the model or its revisions.
        """
        matching = references.c.model_id == model_id
        if adapter_id is not None:
            matching &= references.c.adapter_id == adapter_id
        query = _SELECT_ROUTES.where(table.c.id.in_(select(references.c.route_id).where(matching))).order_by(table.c.id)
        async with self._reading.begin() as connection:
            return [_route(row) for row in await connection.execute(query)]


class RouteChanges(Routes):
    """The routes in a write transaction."""

    def __init__(self, change: CatalogChange) -> None:
        super().__init__(change.reading)
        self._change = change
        self._connection = change.connection
        self._references = RouteReferences(change)

    async def put(self, route: Route, previous: Route | None) -> None:
        """Write a route in place of `previous`, as `find` returned it.

        Raises:
            errors.InvalidArgument: its entry is too large.
        """
        entry = snapshot.route_entry(route)
        key = {"id": route.id} if previous is not None else None
        await self._change.put_row(table, _route_values(route), key)
        if previous is None or previous.revision.number != route.revision.number:
            await self._connection.insert(revisions, _route_revision_values(route))
            before = routes.references(previous.revision.spec) if previous is not None else ()
            await self._references.replace(route.id, before, routes.references(route.revision.spec))
        previous_name = previous.served_name if previous is not None else None
        await self._change.served_names.take(route.name, route.served_name, previous_name)
        await self._change.entries.set(route.name, entry, is_new=previous is None)

    async def delete(self, route: Route) -> None:
        """Delete a route, and the entries of revisions that only it pinned."""
        await self._references.replace(route.id, routes.references(route.revision.spec), ())
        await self._change.served_names.release(route.name)
        await self._connection.execute(delete(table).where(table.c.id == route.id))
        await self._change.entries.set(route.name, None)


def _route(row: Row[Any]) -> Route:
    return Route(
        id=row.id,
        uid=row.uid,
        served_name=row.served_name,
        labels=row.labels,
        revision=RouteRevision(
            number=row.revision_number,
            spec=route_pb2.RouteSpec.FromString(row.spec),
            create_time=from_us(row.revision_create_time_us),
            catalog_revision=row.revision_catalog_revision,
        ),
        create_time=from_us(row.create_time_us),
        update_time=from_us(row.update_time_us),
        catalog_revision=row.catalog_revision,
    )


def _route_revision(row: Row[Any]) -> RouteRevision:
    return RouteRevision(
        number=row.number,
        spec=route_pb2.RouteSpec.FromString(row.spec),
        create_time=from_us(row.create_time_us),
        catalog_revision=row.catalog_revision,
    )


def _route_values(route: Route) -> Mapping[str, object]:
    return {
        "id": route.id,
        "uid": route.uid,
        "served_name": route.served_name,
        "labels": dict(route.labels),
        "revision_number": route.revision.number,
        "create_time_us": to_us(route.create_time),
        "update_time_us": to_us(route.update_time),
        "catalog_revision": route.catalog_revision,
    }


def _route_revision_values(route: Route) -> Mapping[str, object]:
    return {
        "route_id": route.id,
        "number": route.revision.number,
        "spec": route.revision.spec.SerializeToString(deterministic=True),
        "create_time_us": to_us(route.revision.create_time),
        "catalog_revision": route.revision.catalog_revision,
    }
