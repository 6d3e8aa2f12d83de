"""`broadsheet model …`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from broadsheet import specs
from broadsheet.cli.session import Session, command
from broadsheet.cli.view import results
from broadsheet.cli.view.models import model_view, models_table, revisions_table, rollout_view
from broadsheet.cli.view.parts import moment
from broadsheet.cli.view.progress import wait_and_show
from broadsheet.types import RegisterModelRequest, Rollout

group = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Models: register, look at, delete.")

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Model id, or models/ID.")]
FileOption = Annotated[
    Path | None,
    typer.Option("--file", "-f", metavar="FILE.yaml", help="Take everything from a YAML spec.", show_default=False),
]
LabelOption = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A label. Repeatable.")]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="Wait until every connected data plane serves it; fail with the reason.")
]
WaitTimeoutOption = Annotated[
    float, typer.Option("--wait-timeout", metavar="SECONDS", min=0, help="How long to --wait.")
]
EtagOption = Annotated[
    str, typer.Option(metavar="ETAG", help="As `get` showed it: refuse when somebody has changed it since.")
]
MustCreateOption = Annotated[bool, typer.Option("--must-create", help="Refuse when it exists.")]
RevisionArgument = Annotated[int, typer.Argument(metavar="REVISION", min=1, help="Number of an earlier revision.")]
FilterOption = Annotated[
    str,
    typer.Option(
        "--filter",
        metavar="FILTER",
        help="Which ones: comparisons of labels.KEY, state, owner, served_name and ids, with AND, OR, NOT and "
        "parentheses, such as 'labels.env = prod AND state = FAILED'. A * begins or ends a value; labels.KEY:* asks "
        "whether there is the label.",
    ),
]
OrderByOption = Annotated[
    str,
    typer.Option(
        "--order-by",
        metavar="FIELDS",
        help="Sort by name, served_name, create_time or update_time, such as 'create_time desc'.",
    ),
]
ShowDeletedOption = Annotated[bool, typer.Option("--show-deleted", help="Deleted ones too.")]
ServedNameOption = Annotated[str | None, typer.Option(help="Name for callers; '' for the default.")]
LabelsOption = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="All of its labels from now on. Repeatable.")
]
NoLabelsOption = Annotated[bool, typer.Option("--no-labels", help="Take all labels away.")]
DisplayNameOption = Annotated[str | None, typer.Option(help="A name for people; '' for none.")]
DescriptionOption = Annotated[str | None, typer.Option(help="What it is good for; '' for none.")]
OwnedByOption = Annotated[str | None, typer.Option(help="Who owns it; '' for none.")]
LicenseOption = Annotated[str | None, typer.Option(help="SPDX identifier; '' for none.")]
ValidateOption = Annotated[bool, typer.Option("--validate-only", help="Check everything, and write nothing.")]


@command(group, "register", example="broadsheet model register smollm2 --source ./SmolLM2 --min-replicas 0 --wait")
def register(
    session: Session,
    model_id: Annotated[str | None, typer.Argument(metavar="ID", help="Model id; not with --file.")] = None,
    *,
    file: FileOption = None,
    source: Annotated[
        str | None, typer.Option(metavar="DIR_OR_URI", help="Weights: a directory, file:///… or hf://org/name.")
    ] = None,
    source_revision: Annotated[
        str | None, typer.Option(metavar="REV", help="Branch, tag or commit of an hf:// source.")
    ] = None,
    served_name: Annotated[str | None, typer.Option(help="Name for callers. Default: the id.")] = None,
    engine: Annotated[str | None, typer.Option(metavar="KIND", help="VLLM or SIMULATED. Default: VLLM.")] = None,
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Engine argument, such as max_model_len=2048. Repeatable."),
    ] = None,
    min_replicas: Annotated[int | None, typer.Option(help="Replicas kept at all times. Default: 0.")] = None,
    max_replicas: Annotated[int | None, typer.Option(help="Replicas at most. Default: 1, or --min-replicas.")] = None,
    idle_after: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Idle time before the last replica goes. Default: 300s.")
    ] = None,
    cpus: Annotated[float | None, typer.Option(help="CPUs of one replica. Default: 1.")] = None,
    accelerators: Annotated[int | None, typer.Option(help="Accelerators of one replica. Default: 0, the CPU.")] = None,
    accelerator_type: Annotated[str | None, typer.Option(help="Such as H100. Default: any.")] = None,
    tensor_parallel_size: Annotated[int | None, typer.Option(help="Tensor parallelism. Default: 1.")] = None,
    lora_max_rank: Annotated[int | None, typer.Option(help="Take LoRA adapters up to this rank.")] = None,
    lora_max_adapters: Annotated[int | None, typer.Option(help="Adapters that a replica holds ready.")] = None,
    canary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PERCENT[:HOLD]",
            help="Roll a changed spec out in steps: this share of requests, held so long. Repeatable.",
        ),
    ] = None,
    replace_cold: Annotated[
        bool,
        typer.Option("--replace-cold", help="Put a changed spec in place before it has started: no room for both."),
    ] = False,
    label: LabelOption = None,
    etag: EtagOption = "",
    must_create: MustCreateOption = False,
    validate_only: ValidateOption = False,
    wait: WaitOption = False,
    wait_timeout: WaitTimeoutOption = 600.0,
) -> None:
    """Register a model, or a new revision of it.

    It states the whole model: what is left out gets its default, also when the model exists. The
    same again writes nothing. With --file everything comes from a YAML file with the fields of
    RegisterModelRequest.
    """
    flags = _without_empty(
        {
            "model_id": model_id,
            "served_name": served_name,
            "spec": {
                "source": {"uri": source, "revision": source_revision},
                "engine": {"kind": engine, "args": key_values(engine_arg, "--engine-arg", specs.parse_argument)},
                "resources": {
                    "cpus": cpus,
                    "accelerators": accelerators,
                    "accelerator_type": accelerator_type,
                    "tensor_parallel_size": tensor_parallel_size,
                },
                "scaling": {
                    "min_replicas": min_replicas,
                    "max_replicas": max_replicas,
                    "downscale_to_zero_delay": idle_after,
                },
                "lora": {"max_rank": lora_max_rank, "max_adapters": lora_max_adapters},
            },
            "rollout_policy": rollout_policy(canary, replace_cold),
            "labels": key_values(label, "--label", parse_label),
        }
    )
    if file is not None:
        refuse_with_file(flags)
        request = specs.load_model_request(file)
    elif model_id is None:
        raise typer.BadParameter("a model id, or --file FILE.yaml, is needed", param_hint="ID")
    else:
        request = specs.read_request(flags, RegisterModelRequest())
    with session.client() as client:
        response = client.register_model(
            request.model_id,
            spec=request.spec,
            card=request.card if request.HasField("card") else None,
            served_name=request.served_name,
            rollout_policy=request.rollout_policy if request.HasField("rollout_policy") else None,
            labels=request.labels,
            etag=etag or request.etag,
            must_create=must_create or request.must_create,
            validate_only=validate_only,
        )
        model = response.model
        what = f"{model.name} revision {model.revision.number}"
        registered(session, results.to_json(response), what, response.catalog_revision, response.created, validate_only)
        if wait and not validate_only:
            wait_and_show(session, client, model.name, model.revision.number, wait_timeout)


@command(group, "list", example="broadsheet model list --filter 'labels.env = prod AND NOT state = READY'")
def list_(
    session: Session,
    *,
    filter_: FilterOption = "",
    order_by: OrderByOption = "",
    show_deleted: ShowDeletedOption = False,
) -> None:
    """List models, with their state over all data planes."""
    with session.client() as client:
        models = list(client.list_models(filter=filter_, order_by=order_by, show_deleted=show_deleted))
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


@command(group, "update", example="broadsheet model update smollm2 --served-name smol --max-replicas 4")
def update(
    session: Session,
    model: ModelArgument,
    *,
    served_name: ServedNameOption = None,
    label: LabelsOption = None,
    no_labels: NoLabelsOption = False,
    display_name: DisplayNameOption = None,
    description: DescriptionOption = None,
    owned_by: OwnedByOption = None,
    license_: Annotated[str | None, typer.Option("--license", help="SPDX identifier; '' for none.")] = None,
    min_replicas: Annotated[int | None, typer.Option(help="Replicas kept at all times.")] = None,
    max_replicas: Annotated[int | None, typer.Option(help="Replicas at most.")] = None,
    idle_after: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Idle time before the last replica goes.")
    ] = None,
    etag: EtagOption = "",
    validate_only: ValidateOption = False,
) -> None:
    """Change what the flags name and leave the rest. A changed card or scaling makes a new
    revision."""
    card = given(display_name=display_name, description=description, owned_by=owned_by, license=license_)
    scaling = given(min_replicas=min_replicas, max_replicas=max_replicas, downscale_to_zero_delay=idle_after)
    paths = [f"revision.card.{field}" for field in card]
    paths += [f"revision.spec.scaling.{field}" for field in scaling]
    if min_replicas is not None or max_replicas is not None:
        # Its default follows the other two; what it was before may not lie between them any more.
        paths.append("revision.spec.scaling.initial_replicas")
    labels = labels_of(label, no_labels)
    with session.client() as client:
        response = client.update_model(
            model,
            served_name=served_name,
            labels=labels,
            card=card,
            scaling=scaling,
            update_mask=[*paths, *named(served_name=served_name, labels=labels)],
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
    duration_s = 0.0 if stop else _seconds(for_ or "10m", "--for")
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


def _seconds(text: str, flag: str) -> float:
    try:
        return specs.parse_duration(text).ToTimedelta().total_seconds()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=flag) from error


# --- rollouts -------------------------------------------------------------------------------------

rollout_group = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="The rollout of a model's newest revision."
)
group.add_typer(rollout_group, name="rollout")


@command(rollout_group, "status", example="broadsheet model rollout status smollm2")
def rollout_status(session: Session, model: ModelArgument) -> None:
    """Show how far the rollout of the newest revision is, and why it was reverted."""
    with session.client() as client:
        found = client.get_model(model)
    results.show(session, results.to_json(found.rollout), rollout_view(found))


@command(rollout_group, "pause", example="broadsheet model rollout pause smollm2")
def rollout_pause(session: Session, model: ModelArgument, *, validate_only: ValidateOption = False) -> None:
    """Stay at the present step. A new revision that fails is still reverted."""
    _control(session, model, "PAUSE", validate_only)


@command(rollout_group, "resume", example="broadsheet model rollout resume smollm2")
def rollout_resume(session: Session, model: ModelArgument, *, validate_only: ValidateOption = False) -> None:
    """Go on, with the time of the step begun anew."""
    _control(session, model, "RESUME", validate_only)


@command(rollout_group, "abort", example="broadsheet model rollout abort smollm2")
def rollout_abort(session: Session, model: ModelArgument, *, validate_only: ValidateOption = False) -> None:
    """Send all requests to the revision before again."""
    _control(session, model, "ABORT", validate_only)


def _control(session: Session, model: str, action: Literal["PAUSE", "RESUME", "ABORT"], validate_only: bool) -> None:
    with session.client() as client:
        response = client.control_rollout(model, action, validate_only=validate_only)
    state = Rollout.State.Name(response.rollout.state).removeprefix("STATE_")
    would = "would be" if validate_only else "is"
    results.show(session, results.to_json(response), f"the rollout of {model} {would} {state}")


def rollout_policy(steps: list[str] | None, replace_cold: bool) -> dict[str, object]:
    """The policy that `--canary` or `--replace-cold` state; empty without either."""
    if steps and replace_cold:
        raise typer.BadParameter("leave out one of the two", param_hint="--canary --replace-cold")
    if replace_cold:
        return {"strategy": "REPLACE", "require_warm": False}
    if not steps:
        return {}
    made: list[object] = []
    for text in steps:
        percent, colon, hold = text.partition(":")
        if not percent.isdecimal():
            raise typer.BadParameter(f"got {text!r}; expected PERCENT or PERCENT:HOLD, as 5:10m", param_hint="--canary")
        made.append({"percent": int(percent), **({"hold": hold} if colon else {})})
    return {"strategy": "CANARY", "steps": made}


# --- shared with adapters -------------------------------------------------------------------------


def registered(
    session: Session, result: object, what: str, catalog_revision: int, created: bool, validate_only: bool
) -> None:
    """Say what a registration did."""
    if validate_only:
        done = f"{what} would be registered; nothing was written" if created else f"{what} would stay as it is"
    elif created:
        done = f"{what} registered; catalog revision {catalog_revision}"
    else:
        done = f"{what} exists already; catalog revision {catalog_revision}"
    results.show(session, result, done)


def deleted(session: Session, result: object, what: str, catalog_revision: int, validate_only: bool) -> None:
    """Say what a delete did."""
    done = f"{what} would be deleted" if validate_only else f"{what} deleted; catalog revision {catalog_revision}"
    results.show(session, result, done)


def changed(session: Session, result: object, what: str, done: str, catalog_revision: int, validate_only: bool) -> None:
    """Say what a change did."""
    said = f"{what} would be {done}; nothing was written" if validate_only else f"{what} {done}"
    results.show(session, result, said if validate_only else f"{said}; catalog revision {catalog_revision}")


def given(**flags: object) -> dict[str, object]:
    """The flags that were given."""
    return {name: value for name, value in flags.items() if value is not None}


def named(*, served_name: str | None, labels: dict[str, str] | None) -> list[str]:
    """Paths of an update for the flags that models and adapters share."""
    return list(given(served_name=served_name, labels=labels))


def labels_of(label: list[str] | None, no_labels: bool) -> dict[str, str] | None:
    """The labels that --label and --no-labels ask for. None: leave them."""
    if no_labels and label:
        raise typer.BadParameter("leave out one of the two", param_hint="--label --no-labels")
    if no_labels:
        return {}
    return {key: str(value) for key, value in key_values(label, "--label", parse_label).items()} if label else None


def refuse_with_file(flags: dict[str, object]) -> None:
    """Flags beside --file would leave open which of the two holds."""
    if flags:
        raise typer.BadParameter(
            "everything comes from the file; leave out the id and the other flags", param_hint="--file"
        )


def parse_label(text: str) -> tuple[str, object]:
    """`team=search` as a pair.

    Raises:
        ValueError: There is no `=`.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"got {text!r}; expected KEY=VALUE")
    return key, value


def key_values(texts: list[str] | None, flag: str, parse: specs.PairParser) -> dict[str, object]:
    """The pairs of a repeatable flag."""
    pairs: dict[str, object] = {}
    for text in texts or []:
        try:
            key, value = parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=flag) from error
        if key in pairs:
            raise typer.BadParameter(f"{key} is given twice", param_hint=flag)
        pairs[key] = value
    return pairs


def _without_empty(fields: dict[str, object]) -> dict[str, object]:
    """`fields` without those that no flag set."""
    kept = {
        key: _without_empty(value) if isinstance(value, dict) and key != "args" else value
        for key, value in fields.items()
    }
    return {key: value for key, value in kept.items() if value is not None and value != {}}
