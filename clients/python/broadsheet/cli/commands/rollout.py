"""`broadsheet model rollout …`"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from broadsheet.cli.declaring import command
from broadsheet.cli.options import ValidateOption
from broadsheet.cli.session import Session
from broadsheet.cli.view import results
from broadsheet.cli.view.models import rollout_view
from broadsheet.types import Rollout

group = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="The rollout of a model's newest revision.")

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Model id, or models/ID.")]


@command(group, "status", example="broadsheet model rollout status smollm2")
def status(session: Session, model: ModelArgument) -> None:
    """Show how far the rollout of the newest revision is, and why it was reverted."""
    with session.client() as client:
        found = client.get_model(model)
    results.show(session, results.to_json(found.rollout), rollout_view(found))


@command(group, "pause", example="broadsheet model rollout pause smollm2")
def pause(session: Session, model: ModelArgument, *, validate_only: ValidateOption = False) -> None:
    """Stay at the present step. A new revision that fails is still reverted."""
    _control(session, model, "PAUSE", validate_only)


@command(group, "resume", example="broadsheet model rollout resume smollm2")
def resume(session: Session, model: ModelArgument, *, validate_only: ValidateOption = False) -> None:
    """Go on, with the time of the step begun anew."""
    _control(session, model, "RESUME", validate_only)


@command(group, "abort", example="broadsheet model rollout abort smollm2")
def abort(session: Session, model: ModelArgument, *, validate_only: ValidateOption = False) -> None:
    """Send all requests to the revision before again."""
    _control(session, model, "ABORT", validate_only)


def _control(session: Session, model: str, action: Literal["PAUSE", "RESUME", "ABORT"], validate_only: bool) -> None:
    with session.client() as client:
        response = client.control_rollout(model, action, validate_only=validate_only)
    state = Rollout.State.Name(response.rollout.state).removeprefix("STATE_")
    would = "would be" if validate_only else "is"
    results.show(session, results.to_json(response), f"the rollout of {model} {would} {state}")
