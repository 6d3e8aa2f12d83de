"""`broadsheet fleet policy …`, and `broadsheet fleet rollout|halt|resume|force`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from broadsheet import specs
from broadsheet.cli.declaring import command
from broadsheet.cli.options import EtagOption, ValidateOption
from broadsheet.cli.session import Session
from broadsheet.cli.view import results
from broadsheet.cli.view.waves import policy_view, rollout_view
from broadsheet.types import FleetPolicy, FleetRollout

policy_group = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="The policy by which snapshots reach the data planes, wave after wave.",
)

PolicyFileOption = Annotated[
    Path,
    typer.Option("--file", "-f", metavar="FILE.yaml", help="The policy in YAML; - for stdin.", show_default=False),
]


@command(policy_group, "get", example="broadsheet fleet policy get")
def get_policy(session: Session) -> None:
    """Show the policy."""
    with session.client() as client:
        policy = client.get_fleet_policy()
    results.show(session, results.to_json(policy), policy_view(policy))


@command(policy_group, "set", example="broadsheet fleet policy set -f policy.yaml")
def set_policy(
    session: Session, *, file: PolicyFileOption, etag: EtagOption = "", validate_only: ValidateOption = False
) -> None:
    """Set the whole policy. A rollout under way keeps the one that it began with."""
    policy = specs.load_fleet_policy(file)
    with session.client() as client:
        policy = client.set_fleet_policy(policy, etag=etag, validate_only=validate_only)
    results.show(session, results.to_json(policy), _policy_said(policy, validate_only))


@command(policy_group, "clear", example="broadsheet fleet policy clear")
def clear_policy(session: Session, *, validate_only: ValidateOption = False) -> None:
    """Send each snapshot to all data planes at once from now on."""
    with session.client() as client:
        policy = client.set_fleet_policy(FleetPolicy(), validate_only=validate_only)
    results.show(session, results.to_json(policy), _policy_said(policy, validate_only))


def rollout(session: Session) -> None:
    """Show which wave has begun, whom it waits for, and who was hurt."""
    with session.client() as client:
        found = client.get_fleet_rollout()
    results.show(session, results.to_json(found), rollout_view(found))


def halt(
    session: Session,
    *,
    reason: Annotated[str, typer.Option(help="Why, for people to read.")] = "",
    validate_only: ValidateOption = False,
) -> None:
    """Halt the rollout: no further data plane gets its snapshot."""
    with session.client() as client:
        _show(session, client.halt_fleet_rollout(reason, validate_only=validate_only), validate_only)


def resume(
    session: Session,
    *,
    newest: Annotated[
        bool, typer.Option("--newest", help="Begin again with the newest snapshot, first where it did harm.")
    ] = False,
    validate_only: ValidateOption = False,
) -> None:
    """Go on with a halted rollout, without the data planes that were hurt."""
    with session.client() as client:
        _show(session, client.resume_fleet_rollout(newest=newest, validate_only=validate_only), validate_only)


def force(session: Session, *, validate_only: ValidateOption = False) -> None:
    """Send the newest snapshot to every data plane at once."""
    with session.client() as client:
        _show(session, client.force_fleet_rollout(validate_only=validate_only), validate_only)


def add_to(fleet: typer.Typer) -> None:
    """Add these commands to `broadsheet fleet`."""
    fleet.add_typer(policy_group, name="policy")
    command(fleet, "rollout", example="broadsheet fleet rollout")(rollout)
    command(fleet, "halt", example="broadsheet fleet halt --reason 'wait for the on-call'")(halt)
    command(fleet, "resume", example="broadsheet fleet resume")(resume)
    command(fleet, "force", example="broadsheet fleet force")(force)


def _show(session: Session, found: FleetRollout, validate_only: bool) -> None:
    if validate_only:
        session.say("nothing was written")
    results.show(session, results.to_json(found), rollout_view(found))


def _policy_said(policy: FleetPolicy, validate_only: bool) -> str:
    would = "would be set; nothing was written" if validate_only else "set"
    count = len(policy.waves)
    return f"{policy.name} {would}: {count or 'no'} wave{'' if count == 1 else 's'}"
