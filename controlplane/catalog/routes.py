"""Routes: served names that refer to models and adapters, and how they change. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from broadsheet.v1 import route_pb2
from controlplane import errors
from controlplane.catalog.domain import Stamp
from protocol import names
from protocol.validation import FieldViolation

WEIGHT_DEFAULT = 1

ALL_CONDITIONS = (
    route_pb2.RouteFallback.CONDITION_UNAVAILABLE,
    route_pb2.RouteFallback.CONDITION_QUEUE_FULL,
)
"""The default conditions of a fallback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRevision:
    """One immutable spec of a route."""

    number: int
    """Counts the revisions of the route from 1."""
    spec: route_pb2.RouteSpec
    """With every default filled in. Shared by all holders of the record; must not be changed."""
    create_time: datetime
    catalog_revision: int
    """The catalog revision that added it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A served name that refers to models and adapters."""

    id: str
    uid: str
    """Identity for its whole life. Setting it again after a deletion makes a new one."""
    served_name: str
    labels: Mapping[str, str]
    revision: RouteRevision
    """The newest, which is in force."""
    create_time: datetime
    update_time: datetime
    catalog_revision: int
    """The catalog revision of the last change."""

    @property
    def name(self) -> str:
        """Resource name."""
        return names.route_name(self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteDraft:
    """A route as requested, with every default filled in."""

    id: str
    served_name: str
    labels: Mapping[str, str]
    spec: route_pb2.RouteSpec


def resolved(spec: route_pb2.RouteSpec) -> route_pb2.RouteSpec:
    """`spec` with every default filled in, and without fields that this release does not know."""
    known = route_pb2.RouteSpec()
    known.CopyFrom(spec)
    known.DiscardUnknownFields()
    for target in known.targets:
        if not target.HasField("weight"):
            target.weight = WEIGHT_DEFAULT
    for fallback in known.fallbacks:
        # Sorted, so that the same conditions make the same spec.
        conditions = sorted(fallback.conditions or ALL_CONDITIONS)
        del fallback.conditions[:]
        fallback.conditions.extend(conditions)
    return known


def references(spec: route_pb2.RouteSpec) -> tuple[names.Target, ...]:
    """The models and adapters that a route refers to, each once, targets first."""
    resources = [*(target.resource for target in spec.targets), *(fallback.resource for fallback in spec.fallbacks)]
    return tuple(names.parse_target(resource) for resource in dict.fromkeys(resources))


def set_route(current: Route | None, draft: RouteDraft, stamp: Stamp) -> Route:
    """The route after SetRoute. `current` itself if nothing changes."""
    if current is None:
        return Route(
            id=draft.id,
            uid=stamp.uid,
            served_name=draft.served_name,
            labels=draft.labels,
            revision=_revision(1, draft.spec, stamp),
            create_time=stamp.now,
            update_time=stamp.now,
            catalog_revision=stamp.catalog_revision,
        )
    same_spec = current.revision.spec == draft.spec
    if same_spec and (current.served_name, dict(current.labels)) == (draft.served_name, dict(draft.labels)):
        return current
    return dataclasses.replace(
        current,
        served_name=draft.served_name,
        labels=draft.labels,
        revision=current.revision if same_spec else _revision(current.revision.number + 1, draft.spec, stamp),
        update_time=stamp.now,
        catalog_revision=stamp.catalog_revision,
    )


def without(route: Route, resource: str, stamp: Stamp) -> Route | None:
    """`route` without its references to a resource that is deleted.

    Args:
        route: The route before.
        resource: Name of the model or adapter. References to what is below it go too.
        stamp: Time and revision of the change.

    Returns:
        The changed route. None: no target with a weight would be left.
    """
    spec = route_pb2.RouteSpec()
    spec.CopyFrom(route.revision.spec)
    targets = [target for target in spec.targets if not _is_or_below(target.resource, resource)]
    fallbacks = [fallback for fallback in spec.fallbacks if not _is_or_below(fallback.resource, resource)]
    if not any(target.weight for target in targets):
        return None
    del spec.targets[:], spec.fallbacks[:]
    spec.targets.extend(targets)
    spec.fallbacks.extend(fallbacks)
    draft = RouteDraft(id=route.id, served_name=route.served_name, labels=route.labels, spec=spec)
    return set_route(route, draft, stamp)


def _revision(number: int, spec: route_pb2.RouteSpec, stamp: Stamp) -> RouteRevision:
    return RouteRevision(number=number, spec=spec, create_time=stamp.now, catalog_revision=stamp.catalog_revision)


def _is_or_below(name: str, resource: str) -> bool:
    return name == resource or name.startswith(resource + "/")


def route_not_found(name: str) -> errors.NotFound:
    """The error for a resource name that no route has."""
    return errors.NotFound(errors.Reason.ROUTE_NOT_FOUND, f"{name} does not exist", metadata={"resource": name})


def missing_references(missing: Sequence[tuple[str, str]]) -> errors.InvalidArgument:
    """The error for references to resources that do not exist.

    Args:
        missing: Field path and resource name of each; at least one.
    """
    return errors.InvalidArgument.of_fields(
        [
            FieldViolation(field=field, description=f"got {resource!r}: it does not exist; register it first")
            for field, resource in missing
        ],
        errors.Reason.ROUTE_TARGET_NOT_FOUND,
    )


def still_referred_to(resource: str, routes: Sequence[str]) -> errors.FailedPrecondition:
    """The error for deleting `resource` while `routes` (resource names) refer to it."""
    return errors.FailedPrecondition(
        errors.Reason.REFERRED_TO_BY_ROUTES,
        f"{resource} is referred to by {_some(routes)}; change or delete them first, or delete with force, "
        "which takes it out of them",
        metadata={"resource": resource, "routes": ",".join(routes[:_ROUTES_SHOWN]), "routeCount": str(len(routes))},
    )


def would_be_empty(resource: str, routes: Sequence[str]) -> errors.FailedPrecondition:
    """The error for deleting `resource` by force when `routes` would have no target left."""
    return errors.FailedPrecondition(
        errors.Reason.ROUTE_WOULD_BE_EMPTY,
        f"{resource} is the only target with a weight of {_some(routes)}; change or delete them first",
        metadata={"resource": resource, "routes": ",".join(routes[:_ROUTES_SHOWN]), "routeCount": str(len(routes))},
    )


_ROUTES_SHOWN = 5
"""Names of routes that an error lists."""


def _some(routes: Sequence[str]) -> str:
    more = len(routes) - _ROUTES_SHOWN
    shown = ", ".join(routes[:_ROUTES_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown
