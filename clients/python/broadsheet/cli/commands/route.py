"""`broadsheet route …`"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from broadsheet import specs
from broadsheet._requests.names import target_resource
from broadsheet.cli.declaring import command
from broadsheet.cli.options import FileOption, LabelOption, ValidateOption, refuse_with_file, without_empty
from broadsheet.cli.pairs import key_values, parse_label
from broadsheet.cli.session import Session
from broadsheet.cli.view import results
from broadsheet.cli.view.outcomes import deleted
from broadsheet.cli.view.routes import route_revisions_table, route_view, routes_table
from broadsheet.types import SetRouteRequest

group = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Routes: served names that stand for other resources, split by weight, with fallbacks.",
)

RouteArgument = Annotated[str, typer.Argument(metavar="ROUTE", help="Route id, or routes/ID.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecOptions:
    """The spec of a route."""

    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RESOURCE[=WEIGHT]",
            help="MODEL or MODEL/ADAPTER, or a resource name, which may pin a revision. Default weight: 1. Repeatable.",
        ),
    ] = None
    fallback: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RESOURCE[=CONDITION]",
            help="Tried in this order. CONDITION: unavailable or queue_full. Default: both. Repeatable.",
        ),
    ] = None
    sticky: Annotated[
        str | None,
        typer.Option(metavar="user|header:NAME", help="Keep a caller at one target. Default: each request anew."),
    ] = None

    def fields(self) -> dict[str, object]:
        """The fields of `RouteSpec`.

        Raises:
            typer.BadParameter: A flag cannot be read.
        """
        return {
            "targets": [_target(text) for text in self.target] if self.target else None,
            "fallbacks": [_fallback(text) for text in self.fallback] if self.fallback else None,
            "sticky": _sticky(self.sticky) if self.sticky is not None else None,
        }


@command(
    group, "set", example="broadsheet route set chat --target models/a=90 --target models/b=10 --fallback models/a"
)
def set_(
    session: Session,
    route_id: Annotated[str | None, typer.Argument(metavar="ID", help="Route id; not with --file.")] = None,
    *,
    file: FileOption = None,
    spec: SpecOptions,
    served_name: Annotated[str | None, typer.Option(help="Name for callers. Default: the id.")] = None,
    label: LabelOption = None,
    validate_only: ValidateOption = False,
) -> None:
    """Make a route, or change it.

    It states the whole route: what is left out gets its default, also when the route exists. The
    same again writes nothing. With --file everything comes from a YAML file with the fields of
    SetRouteRequest.
    """
    flags = without_empty(
        {
            "route_id": route_id,
            "served_name": served_name,
            "labels": key_values(label, "--label", parse_label),
            "spec": spec.fields(),
        }
    )
    if file is not None:
        refuse_with_file(flags)
        request = specs.load_route_request(file)
    elif route_id is None or not spec.target:
        raise typer.BadParameter("a route id and --target, or --file FILE.yaml, are needed", param_hint="ID")
    else:
        request = specs.read_request(flags, SetRouteRequest())
    with session.client() as client:
        response = client.set_route(
            request.route_id,
            spec=request.spec,
            served_name=request.served_name,
            labels=request.labels,
            validate_only=validate_only,
        )
    what = f"{response.route.name} revision {response.route.revision.number}"
    if validate_only:
        done = f"{what} would be set; nothing was written" if response.created else f"{what} would stay as it is"
    elif response.created:
        done = f"{what} set; catalog revision {response.catalog_revision}"
    else:
        done = f"{what} exists already; catalog revision {response.catalog_revision}"
    results.show(session, results.to_json(response), done)


@command(group, "list", example="broadsheet route list")
def list_(session: Session) -> None:
    """List routes with their targets."""
    with session.client() as client:
        routes = list(client.list_routes())
    results.show(session, results.to_list("routes", routes), routes_table(routes))


@command(group, "get", example="broadsheet route get chat")
def get(session: Session, route: RouteArgument) -> None:
    """Show a route: targets with their shares, and fallbacks in their order."""
    with session.client() as client:
        found = client.get_route(route)
    results.show(session, results.to_json(found), route_view(found))


@command(group, "revisions", example="broadsheet route revisions chat")
def revisions(session: Session, route: RouteArgument) -> None:
    """List the revisions of a route, newest first."""
    with session.client() as client:
        found = list(client.list_route_revisions(route))
        current = client.get_route(route).revision.number
    results.show(session, results.to_list("revisions", found), route_revisions_table(found, current))


@command(group, "delete", example="broadsheet route delete chat")
def delete(session: Session, route: RouteArgument, *, validate_only: ValidateOption = False) -> None:
    """Delete a route. What it refers to stays."""
    with session.client() as client:
        response = client.delete_route(route, validate_only=validate_only)
    deleted(session, results.to_json(response), route, response.catalog_revision, validate_only)


def _target(text: str) -> dict[str, object]:
    resource, equals, weight = text.partition("=")
    if not equals:
        return {"resource": target_resource(resource)}
    if not weight.isdecimal():
        raise typer.BadParameter(f"got {text!r}; expected RESOURCE=WEIGHT, such as models/a=90", param_hint="--target")
    return {"resource": target_resource(resource), "weight": int(weight)}


def _fallback(text: str) -> dict[str, object]:
    resource, equals, condition = text.partition("=")
    conditions: dict[str, object] = {"conditions": [condition]} if equals else {}
    return {"resource": target_resource(resource), **conditions}


def _sticky(text: str) -> dict[str, object]:
    kind, _, header = text.partition(":")
    if text == "user":
        return {"user": True}
    if kind == "header" and header:
        return {"header": header.lower()}
    raise typer.BadParameter(f"got {text!r}; expected user or header:NAME", param_hint="--sticky")
