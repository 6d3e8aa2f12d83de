"""The methods of routes, as the model of the registry has them. Pure."""

from __future__ import annotations

from dataclasses import replace

from tests.registry_model.calls import Answer, DeleteRoute, Refused, SetRoute, not_found
from tests.registry_model.state import Registry
from tests.registry_model.values import Route


def set_route(registry: Registry, call: SetRoute) -> Answer:
    current = registry.routes.get(call.name)
    served_name = call.served_name or call.name.removeprefix("routes/")
    route = changed_route(registry, current, call.name, served_name, call.targets, call.fallbacks)
    if route is current:
        return Answer(catalog_revision=registry.revision, created=False, resource=route)
    registry.check_served_name(served_name, call.name)
    if not all(registry.is_there(reference) for reference in (*call.targets, *call.fallbacks)):
        raise Refused("InvalidArgument", "ROUTE_TARGET_NOT_FOUND")
    registry.routes[call.name] = route
    created = current is None or current.number != route.number
    return Answer(catalog_revision=registry.next_revision, created=created, resource=route)


def delete_route(registry: Registry, call: DeleteRoute) -> Answer:
    if call.name not in registry.routes:
        raise not_found("ROUTE")
    del registry.routes[call.name]
    return Answer(catalog_revision=registry.next_revision)


def changed_route(
    registry: Registry,
    current: Route | None,
    name: str,
    served_name: str,
    targets: tuple[str, ...],
    fallbacks: tuple[str, ...],
) -> Route:
    if current is None:
        return Route(
            name=name,
            served_name=served_name,
            number=1,
            targets=targets,
            fallbacks=fallbacks,
            made_at=registry.next_revision,
            catalog_revision=registry.next_revision,
        )
    same_spec = (current.targets, current.fallbacks) == (targets, fallbacks)
    if same_spec and current.served_name == served_name:
        return current
    return replace(
        current,
        served_name=served_name,
        number=current.number if same_spec else current.number + 1,
        targets=targets,
        fallbacks=fallbacks,
        catalog_revision=registry.next_revision,
    )


def release_from_routes(registry: Registry, name: str, *, force: bool) -> None:
    """Remove a resource from all routes: only by force, and never the last target."""

    def others(references: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(target for target in references if target != name and not target.startswith(f"{name}/"))

    for route in list(registry.routes.values()):
        targets, fallbacks = others(route.targets), others(route.fallbacks)
        if (targets, fallbacks) == (route.targets, route.fallbacks):
            continue
        if not force:
            raise Refused("FailedPrecondition", "REFERRED_TO_BY_ROUTES")
        if not targets:
            raise Refused("FailedPrecondition", "ROUTE_WOULD_BE_EMPTY")
        registry.routes[route.name] = changed_route(registry, route, route.name, route.served_name, targets, fallbacks)
