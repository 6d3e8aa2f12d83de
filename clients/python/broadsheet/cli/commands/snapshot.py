"""`broadsheet snapshot …`"""

from __future__ import annotations

import sys
from itertools import islice
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from broadsheet.cli.declaring import command
from broadsheet.cli.options import ValidateOption
from broadsheet.cli.session import Output, Session
from broadsheet.cli.view import changes, results
from broadsheet.cli.view.snapshots import snapshot_json, snapshot_view, snapshots_table
from broadsheet.types import DiffSnapshotsResponse

group = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Snapshots: what data planes are told to serve, one per change.",
)


@command(group, "list", example="broadsheet snapshot list --limit 5")
def list_(
    session: Session,
    *,
    limit: Annotated[int, typer.Option(min=1, help="Snapshots at most, the newest.")] = 50,
) -> None:
    """List snapshots, newest first, and the change that made each."""
    with session.client() as client:
        snapshots = list(islice(client.list_snapshots(), limit))
    results.show(session, results.to_list("snapshots", snapshots), snapshots_table(snapshots))


@command(group, "show", example="broadsheet snapshot show 12")
def show(
    session: Session,
    revision: Annotated[
        int | None, typer.Argument(metavar="REVISION", min=0, help="Catalog revision. Default: the newest.")
    ] = None,
) -> None:
    """Show a snapshot with its entries."""
    with session.client() as client:
        snapshot = client.fetch_snapshot(revision)
    results.show(session, snapshot_json(snapshot), snapshot_view(snapshot))


@command(group, "diff", example="broadsheet snapshot diff 11 12")
def diff(
    session: Session,
    from_revision: Annotated[int, typer.Argument(metavar="FROM", min=0, help="Catalog revision to begin with.")],
    to_revision: Annotated[
        int | None, typer.Argument(metavar="TO", min=0, help="Catalog revision to end with. Default: the newest.")
    ] = None,
) -> None:
    """Show what differs between two snapshots: resources added (+), removed (-) and changed (~),
    field by field."""
    with session.client() as client:
        difference = client.diff_snapshots(from_revision, to_revision)
    results.show(session, results.to_json(difference), difference_view(difference))


def difference_view(difference: DiffSnapshotsResponse) -> RenderableType:
    """All changes, and how many there are."""
    begin, end = difference.from_position.revision, difference.to_position.revision
    if not difference.changes:
        return Text(f"revisions {begin} and {end} have the same content", style="dim")
    lines = changes.change_lines(difference.changes)
    return Group(*lines, Text(f"{changes.counted(difference.changes)}, from revision {begin} to {end}", style="dim"))


@command(group, "rollback", example="broadsheet snapshot rollback 11")
def rollback(
    session: Session,
    to_revision: Annotated[int, typer.Argument(metavar="REVISION", min=0, help="Catalog revision to go back to.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    validate_only: ValidateOption = False,
) -> None:
    """Make the content of an earlier snapshot the newest again, as one change, after showing what
    that changes.

    Models, adapters and routes get new revisions with their old content. API keys stay as they are.
    """
    with session.client() as client:
        newest = next(client.list_snapshots()).position.revision
        difference = client.diff_snapshots(newest, to_revision)
        # A rollback leaves API keys as they are.
        changed = [change for change in difference.changes if not change.name.startswith("apiKeys/")]
        del difference.changes[:]
        difference.changes.extend(changed)
        if session.output is Output.TABLE or not yes:
            session.stderr.print(difference_view(difference))
        if not yes and not validate_only and difference.changes:
            if not sys.stdin.isatty():
                raise typer.BadParameter("there is no terminal to confirm on; check the changes above, then add --yes")
            typer.confirm("Roll back?", abort=True, err=True)
        response = client.rollback_catalog(to_revision, expected_revision=newest, validate_only=validate_only)
    if response.change_count == 0:
        done = f"nothing to roll back: revision {newest} has that content"
    elif validate_only:
        done = f"{response.change_count} resources would change; nothing was written"
    else:
        done = f"rolled back to revision {to_revision}: {response.change_count} resources changed; "
        done += f"catalog revision {response.catalog_revision}"
    results.show(session, results.to_json(response), done)
