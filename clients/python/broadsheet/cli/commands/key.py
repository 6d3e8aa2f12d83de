"""`broadsheet key …`"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from broadsheet.cli import pairs
from broadsheet.cli.declaring import command
from broadsheet.cli.report import EXIT_FAILED
from broadsheet.cli.session import Output, Session
from broadsheet.cli.view import results
from broadsheet.cli.view.keys import key_view, keys_table
from broadsheet.client import Client
from broadsheet.types import RevokeApiKeyResponse

group = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="API keys: who may ask which models, and how much."
)

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Id of the key, or apiKeys/ID.")]
ValidateOption = Annotated[bool, typer.Option("--validate-only", help="Check everything, change nothing.")]


@command(group, "create", example="broadsheet key create alice --allow 'smollm2*' --requests-per-minute 60")
def create(
    session: Session,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, such as the name of who gets it.")],
    *,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Served names that it may use: `*` any, `?` one. Repeatable. Default: *."),
    ] = None,
    requests_per_minute: Annotated[int, typer.Option(min=0, help="0: no limit.")] = 0,
    tokens_per_minute: Annotated[int, typer.Option(min=0, help="0: no limit.")] = 0,
    expires_in_days: Annotated[float | None, typer.Option(min=0, help="Default: it does not expire.")] = None,
    display_name: Annotated[str, typer.Option(help="A name for people.")] = "",
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Repeatable.")] = None,
    validate_only: ValidateOption = False,
) -> None:
    """Make an API key, and show it: this once, and never again."""
    expire_time = datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days is not None else None
    labels = pairs.labels(label)
    with session.client() as client:
        response = client.create_api_key(
            key_id,
            allowed_served_names=allow or ["*"],
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            expire_time=expire_time,
            display_name=display_name,
            labels=labels,
            validate_only=validate_only,
        )
    if session.output is not Output.TABLE:
        results.show(session, results.to_json(response), "")
    elif validate_only:
        session.say(f"{response.api_key.name} would be created")
    else:
        session.say(f"{response.api_key.name} created; catalog revision {response.catalog_revision}")
        session.say("The key is shown this once, and kept nowhere:")
        session.stdout.file.write(response.key + "\n")


@command(group, "list", example="broadsheet key list")
def list_(session: Session) -> None:
    """List API keys, those that were revoked too."""
    with session.client() as client:
        keys = list(client.list_api_keys())
    results.show(session, results.to_list("api_keys", keys), keys_table(keys))


@command(group, "get", example="broadsheet key get alice")
def get(session: Session, key: KeyArgument) -> None:
    """Show what an API key may do."""
    with session.client() as client:
        found = client.get_api_key(key)
    results.show(session, results.to_json(found), key_view(found))


@command(group, "revoke", example="broadsheet key revoke alice --wait")
def revoke(
    session: Session,
    key: KeyArgument,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all connected data planes refuse it; exit 1 unless they do.")
    ] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, max=3600, help="How long to wait.")] = 30.0,
    validate_only: ValidateOption = False,
) -> None:
    """Revoke an API key for good. Data planes are told at once, beside snapshots."""
    with session.client() as client:
        response = client.revoke_api_key(key, validate_only=validate_only)
        done = "would be revoked" if validate_only else "revoked"
        text = f"{response.api_key.name} {done}; catalog revision {response.catalog_revision}"
        results.show(session, results.to_json(response), text)
        if wait and not validate_only:
            _wait_until_refused(session, client, response, timeout)


def _wait_until_refused(session: Session, client: Client, revoked: RevokeApiKeyResponse, timeout_s: float) -> None:
    left = client.wait_for_revocation(revoked, timeout_s=timeout_s)
    gone = [plane.name.removeprefix("dataPlanes/") for plane in client.list_data_planes() if not plane.connected]
    if gone:
        session.say(f"not connected, and told when they connect: {', '.join(gone)}")
    if left:
        names = ", ".join(plane.name.removeprefix("dataPlanes/") for plane in left)
        session.say(f"these do not say that they refuse {revoked.api_key.name}: {names}")
        raise typer.Exit(EXIT_FAILED)
    session.say(f"all connected data planes refuse {revoked.api_key.name}")
