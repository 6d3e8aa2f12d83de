"""`broadsheet fleet …`"""

from __future__ import annotations

from typing import Annotated

import typer

from broadsheet.cli.commands import waves
from broadsheet.cli.declaring import command
from broadsheet.cli.options import ValidateOption, seconds
from broadsheet.cli.report import EXIT_FAILED
from broadsheet.cli.session import Output, Session
from broadsheet.cli.view import results
from broadsheet.cli.view.fleet import data_plane_view, data_planes_table, history_table, outcomes_table
from broadsheet.cli.view.parts import moment

group = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Data planes: who is connected, and what each serves."
)

waves.add_to(group)

DataPlaneArgument = Annotated[str, typer.Argument(metavar="DATA_PLANE", help="Data plane id, or dataPlanes/ID.")]


@command(group, "list", example="broadsheet fleet list")
def list_(session: Session) -> None:
    """List data planes: connected or not, what they serve, and what they rejected."""
    with session.client() as client:
        planes = list(client.list_data_planes())
    results.show(session, results.to_list("data_planes", planes), data_planes_table(planes))


@command(group, "get", example="broadsheet fleet get local")
def get(session: Session, data_plane: DataPlaneArgument) -> None:
    """Show a data plane with the state of each model and adapter, and the reasons."""
    with session.client() as client:
        plane = client.get_data_plane(data_plane)
    results.show(session, results.to_json(plane), data_plane_view(plane))


@command(group, "history", example="broadsheet fleet history local")
def history(session: Session, data_plane: DataPlaneArgument) -> None:
    """Show what a data plane served and rejected, and since when: the last 50 changes."""
    with session.client() as client:
        plane = client.get_data_plane(data_plane)
    results.show(session, results.to_list("changes", plane.history), history_table(plane.history))


@command(group, "wait", example="broadsheet fleet wait 12 --timeout 60")
def wait(
    session: Session,
    revision: Annotated[
        int | None, typer.Argument(metavar="REVISION", min=0, help="Catalog revision. Default: the newest.")
    ] = None,
    *,
    data_plane: Annotated[
        list[str] | None, typer.Option(help="Wait for this one only. Repeatable. Default: all that are known.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, max=3600, help="How long to wait.")] = 30.0,
) -> None:
    """Wait until data planes have dealt with a catalog revision; exit 1 unless all serve it."""
    with session.client() as client:
        if revision is None:
            revision = next(client.list_snapshots()).position.revision
        response = client.wait_for_revision(revision, data_planes=data_plane or (), timeout_s=timeout)
    results.show(session, results.to_json(response), outcomes_table(response.outcomes))
    if not response.active_everywhere:
        session.say(f"catalog revision {revision} is not served everywhere")
        raise typer.Exit(EXIT_FAILED)


@command(group, "remove", example="broadsheet fleet remove gpu-7")
def remove(
    session: Session,
    data_plane: DataPlaneArgument,
    *,
    force: Annotated[bool, typer.Option("--force", help="Also if it is connected; its stream ends.")] = False,
    validate_only: ValidateOption = False,
) -> None:
    """Forget a data plane that is gone, and withdraw the credential that it has by enrolment.

    With another credential it comes back if it connects again: withdraw that one first.
    """
    with session.client() as client:
        response = client.remove_data_plane(data_plane, force=force, validate_only=validate_only)
    done = "would be removed; nothing was written" if validate_only else "removed"
    results.show(session, results.to_json(response), f"{response.data_plane.name} {done}")


@command(group, "enroll", example="broadsheet fleet enroll gpu-7 --ttl 1h > gpu-7.token")
def enroll(
    session: Session,
    data_plane: DataPlaneArgument,
    *,
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="How long the token can be used: 1m to 7d.")] = "1h",
    renew: Annotated[
        bool, typer.Option("--renew", help="Also if it is enrolled: its credential is replaced when it uses the token.")
    ] = False,
    validate_only: ValidateOption = False,
) -> None:
    """Make a token with which a data plane gets its own credential, once. It is shown this once.

    Start the data plane with `--enrollment-token-file`. It keeps its credential in its data
    directory.
    """
    ttl_s = seconds(ttl, "--ttl")
    with session.client() as client:
        response = client.enroll_data_plane(data_plane, ttl_s=ttl_s, renew=renew, validate_only=validate_only)
    if session.output is not Output.TABLE:
        results.show(session, results.to_json(response), "")
    elif validate_only:
        session.say(f"{response.name} would get a token")
    else:
        session.say(f"{response.name} can be enrolled until {moment(response.expire_time)}")
        session.say("The token is shown this once, and kept nowhere:")
        session.stdout.file.write(response.enrollment_token + "\n")
