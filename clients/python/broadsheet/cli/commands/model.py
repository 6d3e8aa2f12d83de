"""`broadsheet model …`"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from broadsheet import specs
from broadsheet.cli.commands import rollout
from broadsheet.cli.commands.model_spec import ModelOptions
from broadsheet.cli.commands.rollout import ModelArgument
from broadsheet.cli.declaring import command
from broadsheet.cli.options import (
    CardChange,
    EtagOption,
    FileOption,
    LabelsChange,
    Listing,
    Registration,
    RevisionArgument,
    ServedNameOption,
    ValidateOption,
    Waiting,
    WaitTimeoutOption,
    given,
    refuse_with_file,
    seconds,
)
from broadsheet.cli.session import Session
from broadsheet.cli.view import results
from broadsheet.cli.view.models import model_view, models_table, revisions_table
from broadsheet.cli.view.outcomes import changed, deleted, registered
from broadsheet.cli.view.parts import moment
from broadsheet.cli.view.progress import wait_and_show
from broadsheet.types import RegisterModelRequest, Rollout

group = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Models: register, look at, delete.")


@command(group, "register", example="broadsheet model register smollm2 --source ./SmolLM2 --min-replicas 0 --wait")
def register(
    session: Session,
    model_id: Annotated[str | None, typer.Argument(metavar="ID", help="Model id; not with --file.")] = None,
    *,
    file: FileOption = None,
    model: ModelOptions,
    registration: Registration,
    waiting: Waiting,
) -> None:
    """Register a model, or a new revision of it.

    It states the whole model: what is left out gets its default, also when the model exists. The
    same again writes nothing. With --file everything comes from a YAML file with the fields of
    RegisterModelRequest.
    """
    flags = {**given(model_id=model_id), **model.fields()}
    if file is not None:
        refuse_with_file(flags)
        request = specs.load_model_request(file)
    elif model_id is None:
        raise typer.BadParameter("a model id, or --file FILE.yaml, is needed", param_hint="ID")
    else:
        request = specs.read_request(flags, RegisterModelRequest())
    validate_only = registration.validate_only
    with session.client() as client:
        response = client.register_model(
            request.model_id,
            spec=request.spec,
            card=request.card if request.HasField("card") else None,
            served_name=request.served_name,
            rollout_policy=request.rollout_policy if request.HasField("rollout_policy") else None,
            labels=request.labels,
            etag=registration.etag or request.etag,
            must_create=registration.must_create or request.must_create,
            validate_only=validate_only,
        )
        made = response.model
        what = f"{made.name} revision {made.revision.number}"
        registered(session, results.to_json(response), what, response.catalog_revision, response.created, validate_only)
        if waiting.wait and not validate_only:
            wait_and_show(session, client, made.name, made.revision.number, waiting.wait_timeout)


@command(group, "list", example="broadsheet model list --filter 'labels.env = prod AND NOT state = READY'")
def list_(
    session: Session,
    *,
    listing: Listing,
) -> None:
    """List models, with their state over all data planes."""
    with session.client() as client:
        models = list(
            client.list_models(filter=listing.filter_, order_by=listing.order_by, show_deleted=listing.show_deleted)
        )
    results.show(session, results.to_list("models", models), models_table(models))


@command(group, "get", example="broadsheet model get smollm2")
def get(session: Session, model: ModelArgument) -> None:
    """Show a model: spec, card, and its state on each data plane with the reason."""
    with session.client() as client:
        found = client.get_model(model)
    results.show(session, results.to_json(found), model_view(found))


@command(group, "revisions", example="broadsheet model revisions smollm2")
def revisions(session: Session, model: ModelArgument) -> None:
    """List the revisions of a model, newest first."""
    with session.client() as client:
        found = list(client.list_model_revisions(model))
        current = client.get_model(model).revision.number
    results.show(session, results.to_list("revisions", found), revisions_table(found, current))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingChange:
    """Changed fields of a model's scaling."""

    min_replicas: Annotated[int | None, typer.Option(help="Replicas kept at all times.")] = None
    max_replicas: Annotated[int | None, typer.Option(help="Replicas at most.")] = None
    idle_after: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Idle time before the last replica goes.")
    ] = None

    def fields(self) -> dict[str, object]:
        """The fields that are given."""
        return given(
            min_replicas=self.min_replicas, max_replicas=self.max_replicas, downscale_to_zero_delay=self.idle_after
        )

    def paths(self) -> list[str]:
        """The fields that change. `initial_replicas` is reset: it may lie outside the new range."""
        reset = self.min_replicas is not None or self.max_replicas is not None
        return [*self.fields(), *(["initial_replicas"] if reset else [])]


@command(group, "update", example="broadsheet model update smollm2 --served-name smol --max-replicas 4")
def update(
    session: Session,
    model: ModelArgument,
    *,
    served_name: ServedNameOption = None,
    labels: LabelsChange,
    card: CardChange,
    scaling: ScalingChange,
    etag: EtagOption = "",
    validate_only: ValidateOption = False,
) -> None:
    """Change what the flags name and leave the rest. A changed card or scaling makes a new
    revision."""
    new_labels = labels.labels()
    paths = [f"revision.card.{field}" for field in card.fields()]
    paths += [f"revision.spec.scaling.{field}" for field in scaling.paths()]
    with session.client() as client:
        response = client.update_model(
            model,
            served_name=served_name,
            labels=new_labels,
            card=card.fields(),
            scaling=scaling.fields(),
            update_mask=[*paths, *given(served_name=served_name, labels=new_labels)],
            etag=etag,
            validate_only=validate_only,
        )
    what = f"{response.model.name} revision {response.model.revision.number}"
    changed(session, results.to_json(response), what, "updated", response.catalog_revision, validate_only)


@command(group, "rollback", example="broadsheet model rollback smollm2 3")
def rollback(
    session: Session,
    model: ModelArgument,
    revision: RevisionArgument,
    *,
    etag: EtagOption = "",
    validate_only: ValidateOption = False,
) -> None:
    """Make a new revision with the spec and card of an earlier one. Served name and labels stay as
    they are."""
    with session.client() as client:
        response = client.rollback_model(model, revision, etag=etag, validate_only=validate_only)
    what = f"{response.model.name} revision {response.model.revision.number}, the content of {revision},"
    changed(session, results.to_json(response), what, "made", response.catalog_revision, validate_only)


@command(group, "undelete", example="broadsheet model undelete smollm2")
def undelete(
    session: Session, model: ModelArgument, *, etag: EtagOption = "", validate_only: ValidateOption = False
) -> None:
    """Take a deletion back. The adapters that were deleted with the model come back with it."""
    with session.client() as client:
        response = client.undelete_model(model, etag=etag, validate_only=validate_only)
    what = f"{response.model.name} with {response.adapter_count} adapters"
    changed(session, results.to_json(response), what, "undeleted", response.catalog_revision, validate_only)


@command(group, "delete", example="broadsheet model delete smollm2 --force")
def delete(
    session: Session,
    model: ModelArgument,
    *,
    force: Annotated[bool, typer.Option("--force", help="Delete its adapters too, and take it out of routes.")] = False,
    etag: EtagOption = "",
    validate_only: ValidateOption = False,
) -> None:
    """Delete a model. It can be undeleted until its purge time.

    One that has adapters, or that routes refer to, is refused, unless --force.
    """
    with session.client() as client:
        response = client.delete_model(model, force=force, etag=etag, validate_only=validate_only)
    deleted(session, results.to_json(response), model, response.catalog_revision, validate_only)


@command(group, "warm", example="broadsheet model warm smollm2 --for 30m --wait")
def warm(
    session: Session,
    model: ModelArgument,
    *,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="How long from now on. Default: 10m.")
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="End it.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it is READY on every connected data plane; fail with the reason.")
    ] = False,
    wait_timeout: WaitTimeoutOption = 600.0,
    etag: EtagOption = "",
    validate_only: ValidateOption = False,
) -> None:
    """Start a model on every data plane before it is asked for, and keep it for a while."""
    if stop and (for_ is not None or wait):
        raise typer.BadParameter("leave out --for and --wait", param_hint="--stop")
    duration_s = 0.0 if stop else seconds(for_ or "10m", "--for")
    with session.client() as client:
        response = client.warm_model(model, duration_s=duration_s, etag=etag, validate_only=validate_only)
        warmed = response.model
        done = f"warmed until {moment(warmed.warm_until)}" if duration_s else "not warmed any longer"
        changed(session, results.to_json(response), warmed.name, done, response.catalog_revision, validate_only)
        if wait and not validate_only:
            # While a rollout is under way, it is the stable revision that is warmed.
            under_way = warmed.rollout.state in (Rollout.STATE_RUNNING, Rollout.STATE_PAUSED)
            number = warmed.rollout.stable_number if under_way else warmed.revision.number
            wait_and_show(session, client, warmed.name, number, wait_timeout, require_ready=True)


group.add_typer(rollout.group, name="rollout")
