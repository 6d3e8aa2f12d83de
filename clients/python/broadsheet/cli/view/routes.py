"""Routes and their revisions."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType

from broadsheet.cli.view.parts import add_row, age, facts_of, new_table, or_none, section
from broadsheet.types import Route, RouteFallback, RouteRevision, RouteSpec


def routes_table(routes: Iterable[Route]) -> RenderableType:
    """Routes, one per line."""
    table = new_table("ROUTE", "SERVED NAME", "REVISION", "TARGETS", "FALLBACKS", "STICKY BY", "UPDATED")
    for route in routes:
        spec = route.revision.spec
        add_row(
            table,
            route.name.removeprefix("routes/"),
            route.served_name,
            str(route.revision.number),
            *_route_cells(spec),
            age(route.update_time),
        )
    return or_none(table, "no routes; set one: broadsheet route set ID --target MODEL=WEIGHT")


def route_view(route: Route) -> RenderableType:
    """Everything about one route."""
    revision = route.revision
    facts = facts_of(route, f"{revision.number}, set {age(revision.create_time)}")
    targets = new_table("TARGET", "WEIGHT", "SHARE")
    total = sum(target.weight for target in revision.spec.targets)
    for target in revision.spec.targets:
        add_row(targets, target.resource, str(target.weight), f"{100 * target.weight / max(1, total):.1f} %")
    fallbacks = new_table("FALLBACK", "WHEN")
    for fallback in revision.spec.fallbacks:
        conditions = (RouteFallback.Condition.Name(number).removeprefix("CONDITION_") for number in fallback.conditions)
        add_row(fallbacks, fallback.resource, ", ".join(conditions))
    add_row(facts, "Sticky by", _sticky(revision.spec))
    return Group(facts, section("Targets", targets), section("Fallbacks, in order", or_none(fallbacks, "none")))


def route_revisions_table(revisions: Iterable[RouteRevision], current: int) -> RenderableType:
    """Revisions of a route, newest first."""
    table = new_table("REVISION", "", "TARGETS", "FALLBACKS", "STICKY BY", "CATALOG REVISION", "SET")
    for revision in revisions:
        add_row(
            table,
            str(revision.number),
            "current" if revision.number == current else "",
            *_route_cells(revision.spec),
            str(revision.catalog_revision),
            age(revision.create_time),
        )
    return table


def _route_cells(spec: RouteSpec) -> tuple[str, str, str]:
    targets = ", ".join(f"{target.resource.removeprefix('models/')}={target.weight}" for target in spec.targets)
    fallbacks = ", ".join(fallback.resource.removeprefix("models/") for fallback in spec.fallbacks)
    return targets, fallbacks or "-", _sticky(spec)


def _sticky(spec: RouteSpec) -> str:
    kind = spec.sticky.WhichOneof("key")
    return "-" if kind is None else "user" if kind == "user" else f"header {spec.sticky.header}"
