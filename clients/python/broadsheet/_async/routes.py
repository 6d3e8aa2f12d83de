"""Routes: served names with weighted targets and fallbacks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from broadsheet import specs
from broadsheet._connection.asynchronous import AsyncConnection
from broadsheet._requests.names import route_resource
from broadsheet.types import DeleteRouteResponse, Route, RouteRevision, RouteSpec, SetRouteResponse
from broadsheet.v1 import route_pb2 as pb


class AsyncRoutes(AsyncConnection):
    """The RPCs on routes."""

    async def set_route(
        self,
        route_id: str,
        *,
        spec: RouteSpec | Mapping[str, object],
        served_name: str = "",
        labels: Mapping[str, str] | None = None,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> SetRouteResponse:
        """Create a route or change it. An omitted argument gets its default.

        The same again writes nothing, as in `register_model`.

        Args:
            route_id: Last part of the resource name: 1 to 63 of `a-z 0-9 . -`.
            spec: What it does: a message, or a mapping such as `{"targets": [{"resource":
                "models/a", "weight": 90}, {"resource": "models/b", "weight": 10}], "fallbacks":
                [{"resource": "models/a"}]}`.
            served_name: What callers put into OpenAI's `model` field. Default: `route_id`.
            labels: Free key-value pairs.
            validate_only: Check everything, answer as if it were done, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            InvalidSpec: A mapping has unknown fields or wrong types; nothing was sent.
            InvalidArgument: A field breaks a rule, or a target or fallback does not exist.
            AlreadyExists: The served name is taken.
        """
        request = pb.SetRouteRequest(
            route_id=route_id,
            served_name=served_name,
            spec=specs.to_message(spec, RouteSpec(), "spec"),
            labels=labels or {},
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call(self._registry.SetRoute, request, timeout_s)

    async def get_route(self, route: str, *, timeout_s: float | None = None) -> Route:
        """Get a route.

        Raises:
            NotFound: There is no such route.
        """
        request = pb.GetRouteRequest(name=route_resource(route))
        return (await self._call(self._registry.GetRoute, request, timeout_s)).route

    async def list_routes(self, *, timeout_s: float | None = None) -> AsyncIterator[Route]:
        """List all routes by id. Pages are fetched as they are needed."""
        async for page in self._pages(self._registry.ListRoutes, pb.ListRoutesRequest(), timeout_s):
            for route in page.routes:
                yield route

    async def list_route_revisions(self, route: str, *, timeout_s: float | None = None) -> AsyncIterator[RouteRevision]:
        """List the revisions of a route, newest first.

        Raises:
            NotFound: There is no such route.
        """
        request = pb.ListRouteRevisionsRequest(parent=route_resource(route))
        async for page in self._pages(self._registry.ListRouteRevisions, request, timeout_s):
            for revision in page.revisions:
                yield revision

    async def delete_route(
        self, route: str, *, validate_only: bool = False, request_id: str = "", timeout_s: float | None = None
    ) -> DeleteRouteResponse:
        """Delete a route. Its targets stay.

        Args:
            validate_only: Check everything, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            NotFound: There is no such route.
        """
        name = route_resource(route)
        request = pb.DeleteRouteRequest(name=name, validate_only=validate_only, request_id=request_id)
        return await self._call(self._registry.DeleteRoute, request, timeout_s)
