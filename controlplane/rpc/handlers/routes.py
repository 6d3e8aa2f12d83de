"""The RPCs of routes."""

from __future__ import annotations

from collections.abc import Sequence

from broadsheet.v1 import route_pb2 as pb
from controlplane.catalog import convert, routes
from controlplane.catalog.routes import Route, RouteRevision
from controlplane.listing import paging
from controlplane.rpc.handlers import consistency, idempotency
from controlplane.rpc.handlers.registry import Registry
from controlplane.store.transactions import WriteTransaction
from protocol import names


class RouteHandler:
    """Sets, reads and deletes routes."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def set_route(self, request: pb.SetRouteRequest) -> pb.SetRouteResponse:
        draft = routes.RouteDraft(
            id=request.route_id,
            served_name=request.served_name or request.route_id,
            labels=dict(request.labels),
            spec=routes.resolved(request.spec),
        )
        name = names.route_name(draft.id)

        async def work(transaction: WriteTransaction) -> pb.SetRouteResponse:
            current = await transaction.routes.find(draft.id)
            route = routes.set_route(current, draft, transaction.stamp)
            changed = route is not current
            if changed:
                await consistency.check_served_name(transaction, draft.served_name, name)
                await consistency.check_route_references(transaction, draft.spec)
                await transaction.routes.put(route, current)
            return pb.SetRouteResponse(
                route=convert.route_to_proto(route),
                catalog_revision=consistency.revision_with(transaction, changed=changed),
                created=current is None or current.revision.number != route.revision.number,
            )

        return await idempotency.commit(self._registry.store, request, pb.SetRouteResponse, work, resource=name)

    async def get_route(self, request: pb.GetRouteRequest) -> pb.GetRouteResponse:
        route = await self._registry.store.routes.get(names.parse_route(request.name))
        return pb.GetRouteResponse(route=convert.route_to_proto(route))

    async def list_routes(self, request: pb.ListRoutesRequest) -> pb.ListRoutesResponse:
        async def read(after_id: str, limit: int) -> Sequence[Route]:
            return await self._registry.store.routes.list(after_id=after_id, limit=limit)

        page = await paging.page_by_id(request, read, key=lambda route: route.id, to_proto=convert.route_to_proto)
        return pb.ListRoutesResponse(routes=page.items, next_page_token=page.next_page_token)

    async def list_route_revisions(self, request: pb.ListRouteRevisionsRequest) -> pb.ListRouteRevisionsResponse:
        route_id = names.parse_route(request.parent)

        async def read(before: int | None, limit: int) -> Sequence[RouteRevision]:
            return await self._registry.store.routes.list_revisions(route_id, before_number=before, limit=limit)

        page = await paging.page_newest_first(
            request,
            read,
            key=lambda revision: revision.number,
            to_proto=lambda revision: convert.route_revision_to_proto(route_id, revision),
        )
        return pb.ListRouteRevisionsResponse(revisions=page.items, next_page_token=page.next_page_token)

    async def delete_route(self, request: pb.DeleteRouteRequest) -> pb.DeleteRouteResponse:
        route_id = names.parse_route(request.name)

        async def work(transaction: WriteTransaction) -> pb.DeleteRouteResponse:
            route = await transaction.routes.find(route_id)
            if route is None:
                raise routes.route_not_found(request.name)
            await transaction.routes.delete(route)
            return pb.DeleteRouteResponse(catalog_revision=transaction.stamp.catalog_revision)

        return await idempotency.commit(
            self._registry.store, request, pb.DeleteRouteResponse, work, resource=request.name
        )
