"""The RPCs of routes, and what routes have to say when something they refer to is to go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from broadsheet.v1 import route_pb2
from controlplane import errors
from controlplane.catalog import convert, routes
from controlplane.catalog.routes import Route, RouteRevision
from controlplane.listing import paging
from controlplane.rpc.handlers.idempotency import Changes
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction
from protocol import names

Context = grpc.aio.ServicerContext[Any, Any]


class RouteRpcs:
    """The part of RegistryService that is about routes."""

    _store: Store
    _changes: Changes

    async def SetRoute(self, request: route_pb2.SetRouteRequest, context: Context) -> route_pb2.SetRouteResponse:
        draft = routes.RouteDraft(
            id=request.route_id,
            served_name=request.served_name or request.route_id,
            labels=dict(request.labels),
            spec=routes.resolved(request.spec),
        )
        name = names.route_name(draft.id)

        async def work(transaction: WriteTransaction) -> route_pb2.SetRouteResponse:
            current = await transaction.route(draft.id)
            route = routes.set_route(current, draft, transaction.stamp)
            created = current is None or current.revision.number != route.revision.number
            if route is not current:
                holder = await transaction.holder_of(draft.served_name)
                if holder not in (None, name):
                    raise errors.served_name_taken(draft.served_name, holder)
                await _check_references(transaction, draft.spec)
                await transaction.put_route(route, current)
            unchanged = transaction.head.position.revision
            return route_pb2.SetRouteResponse(
                route=convert.route_to_proto(route),
                catalog_revision=unchanged if route is current else transaction.stamp.catalog_revision,
                created=created,
            )

        return await self._changes.commit(request, route_pb2.SetRouteResponse, work, resource=name)

    async def GetRoute(self, request: route_pb2.GetRouteRequest, context: Context) -> route_pb2.GetRouteResponse:
        route = await self._store.get_route(names.parse_route(request.name))
        return route_pb2.GetRouteResponse(route=convert.route_to_proto(route))

    async def ListRoutes(self, request: route_pb2.ListRoutesRequest, context: Context) -> route_pb2.ListRoutesResponse:
        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[Route]:
            return await self._store.list_routes(after_id=str(cursor[0]) if cursor is not None else "", limit=limit)

        first = paging.cursor(request, request.page_token, str)
        page, following = await paging.read_page(
            read, lambda route: (route.id,), convert.route_to_proto, first, paging.page_size(request.page_size)
        )
        return route_pb2.ListRoutesResponse(
            routes=page, next_page_token=paging.token(request, following) if following is not None else ""
        )

    async def ListRouteRevisions(
        self, request: route_pb2.ListRouteRevisionsRequest, context: Context
    ) -> route_pb2.ListRouteRevisionsResponse:
        route_id = names.parse_route(request.parent)

        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[RouteRevision]:
            before_number = int(cursor[0]) if cursor is not None else None
            return await self._store.list_route_revisions(route_id, before_number=before_number, limit=limit)

        first = paging.cursor(request, request.page_token, int)
        revisions, following = await paging.read_page(
            read,
            lambda revision: (revision.number,),
            lambda revision: convert.route_revision_to_proto(route_id, revision),
            first,
            paging.page_size(request.page_size),
        )
        return route_pb2.ListRouteRevisionsResponse(
            revisions=revisions, next_page_token=paging.token(request, following) if following is not None else ""
        )

    async def DeleteRoute(
        self, request: route_pb2.DeleteRouteRequest, context: Context
    ) -> route_pb2.DeleteRouteResponse:
        route_id = names.parse_route(request.name)

        async def work(transaction: WriteTransaction) -> route_pb2.DeleteRouteResponse:
            route = await transaction.route(route_id)
            if route is None:
                raise routes.route_not_found(request.name)
            await transaction.delete_route(route)
            return route_pb2.DeleteRouteResponse(catalog_revision=transaction.stamp.catalog_revision)

        return await self._changes.commit(request, route_pb2.DeleteRouteResponse, work, resource=request.name)


async def release_from_routes(
    transaction: WriteTransaction, model_id: str, adapter_id: str | None = None, *, force: bool
) -> None:
    """Take a model (with its adapters), or one adapter, out of every route, because it is about to
    be deleted.

    Raises:
        errors.FailedPrecondition: routes refer to it, and `force` is not given or would leave one
        without a target.
    """
    resource = names.model_name(model_id) if adapter_id is None else names.adapter_name(model_id, adapter_id)
    referring = await transaction.routes_to(model_id, adapter_id)
    if referring and not force:
        raise routes.still_referred_to(resource, [route.name for route in referring])
    changed = [(route, routes.without(route, resource, transaction.stamp)) for route in referring]
    empty = [route.name for route, after in changed if after is None]
    if empty:
        raise routes.would_be_empty(resource, empty)
    for route, after in changed:
        if after is not None:
            await transaction.put_route(after, route)


async def _check_references(transaction: WriteTransaction, spec: route_pb2.RouteSpec) -> None:
    """Refuse a route to something that is not there or that its model could not serve.

    Raises:
        errors.InvalidArgument: there is such a reference.
    """
    fields = [
        *((f"spec.targets[{index}].resource", target.resource) for index, target in enumerate(spec.targets)),
        *((f"spec.fallbacks[{index}].resource", fallback.resource) for index, fallback in enumerate(spec.fallbacks)),
    ]
    missing = []
    for field, resource in fields:
        target = names.parse_target(resource)
        model = await transaction.model(target.model_id)
        if model is None:
            missing.append((field, resource))
        elif target.adapter_id is not None:
            rank = await transaction.adapter_rank(target)
            if rank is None:
                missing.append((field, resource))
            elif rank > (rank_max := model.revision.spec.lora.max_rank):
                raise errors.InvalidArgument.of_field(
                    field,
                    f"got {resource!r}: it has rank {rank}; {model.name} serves ranks up to {rank_max} "
                    "(spec.lora.max_rank)",
                    errors.Reason.ADAPTER_RANK_TOO_HIGH,
                )
        elif target.number is not None and await transaction.model_revision(target.model_id, target.number) is None:
            missing.append((field, resource))
    if missing:
        raise routes.missing_references(missing)
