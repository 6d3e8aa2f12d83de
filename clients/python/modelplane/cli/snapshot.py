"""`modelplane snapshot …`"""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from modelplane.cli import output
from modelplane.cli.session import Session, command

group = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Snapshots: what data planes are told to serve, one per change.",
)


@command(group, "list", example="modelplane snapshot list --limit 5")
def list_(
    session: Session,
    *,
    limit: Annotated[int, typer.Option(min=1, help="Snapshots at most, the newest.")] = 50,
) -> None:
    """List snapshots, newest first, and the change that made each."""
    with session.client() as client:
        snapshots = list(islice(client.list_snapshots(), limit))
    output.show(session, output.to_list("snapshots", snapshots), output.snapshots_table(snapshots))


@command(group, "show", example="modelplane snapshot show 12")
def show(
    session: Session,
    revision: Annotated[
        int | None, typer.Argument(metavar="REVISION", min=0, help="Catalog revision. Default: the newest.")
    ] = None,
) -> None:
    """Show a snapshot with its entries."""
    with session.client() as client:
        snapshot = client.fetch_snapshot(revision)
    output.show(session, output.snapshot_json(snapshot), output.snapshot_view(snapshot))
