"""`broadsheet adapter …`"""

from __future__ import annotations

from typing import Annotated

import typer

from broadsheet import specs
from broadsheet._requests.names import model_resource
from broadsheet.cli.declaring import command
from broadsheet.cli.options import (
    CardChange,
    EtagOption,
    FileOption,
    LabelOption,
    LabelsChange,
    Listing,
    Registration,
    RevisionArgument,
    ServedNameOption,
    ValidateOption,
    Waiting,
    given,
    refuse_with_file,
    without_empty,
)
from broadsheet.cli.pairs import key_values, parse_label
from broadsheet.cli.session import Session
from broadsheet.cli.view import results
from broadsheet.cli.view.adapters import adapter_revisions_table, adapter_view, adapters_table
from broadsheet.cli.view.outcomes import changed, deleted, registered
from broadsheet.cli.view.progress import wait_and_show
from broadsheet.types import RegisterAdapterRequest

group = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="LoRA adapters of models: register, look at, delete."
)

AdapterArgument = Annotated[
    str, typer.Argument(metavar="ADAPTER", help="MODEL/ADAPTER, or models/MODEL/adapters/ADAPTER.")
]


@command(group, "register", example="broadsheet adapter register smollm2 pirate --source ./pirate-lora --wait")
def register(
    session: Session,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="The base model; not with --file.")] = None,
    adapter_id: Annotated[str | None, typer.Argument(metavar="ID", help="Adapter id; not with --file.")] = None,
    *,
    file: FileOption = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_URI", help="Directory with adapter_config.json and adapter_model.safetensors."),
    ] = None,
    served_name: Annotated[str | None, typer.Option(help="Name for callers. Default: {base}:{id}.")] = None,
    label: LabelOption = None,
    registration: Registration,
    waiting: Waiting,
) -> None:
    """Register a LoRA adapter of a model, or a new revision of it.

    The control plane reads and checks the files, so it must see them under the same path. The same
    files again write nothing. With --file everything comes from a YAML file with the fields of
    RegisterAdapterRequest.
    """
    flags = without_empty(
        {
            "parent": model_resource(model) if model is not None else None,
            "adapter_id": adapter_id,
            "source": {"uri": source},
            "served_name": served_name,
            "labels": key_values(label, "--label", parse_label),
        }
    )
    if file is not None:
        refuse_with_file(flags)
        request = specs.load_adapter_request(file)
    elif model is None or adapter_id is None or source is None:
        raise typer.BadParameter("MODEL, ID and --source, or --file FILE.yaml, are needed", param_hint="MODEL ID")
    else:
        request = specs.read_request(flags, RegisterAdapterRequest())
    validate_only = registration.validate_only
    with session.client() as client:
        response = client.register_adapter(
            request.parent,
            request.adapter_id,
            source=request.source,
            card=request.card if request.HasField("card") else None,
            served_name=request.served_name,
            labels=request.labels,
            etag=registration.etag or request.etag,
            must_create=registration.must_create or request.must_create,
            validate_only=validate_only,
        )
        adapter = response.adapter
        what = f"{adapter.name} revision {adapter.revision.number}"
        registered(session, results.to_json(response), what, response.catalog_revision, response.created, validate_only)
        if waiting.wait and not validate_only:
            wait_and_show(session, client, adapter.name, adapter.revision.number, waiting.wait_timeout)


@command(group, "list", example="broadsheet adapter list smollm2 --order-by 'update_time desc'")
def list_(
    session: Session,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Base model. Default: all models.")] = None,
    *,
    listing: Listing,
) -> None:
    """List the adapters of a model, or of all models."""
    with session.client() as client:
        found = client.list_adapters(
            model, filter=listing.filter_, order_by=listing.order_by, show_deleted=listing.show_deleted
        )
        adapters = list(found)
    results.show(session, results.to_list("adapters", adapters), adapters_table(adapters))


@command(group, "get", example="broadsheet adapter get smollm2/pirate")
def get(session: Session, adapter: AdapterArgument) -> None:
    """Show an adapter: files, digest, and its state on each data plane with the reason."""
    with session.client() as client:
        found = client.get_adapter(adapter)
    results.show(session, results.to_json(found), adapter_view(found))


@command(group, "revisions", example="broadsheet adapter revisions smollm2/pirate")
def revisions(session: Session, adapter: AdapterArgument) -> None:
    """List the revisions of an adapter, newest first."""
    with session.client() as client:
        found = list(client.list_adapter_revisions(adapter))
        current = client.get_adapter(adapter).revision.number
    results.show(session, results.to_list("revisions", found), adapter_revisions_table(found, current))


@command(group, "update", example="broadsheet adapter update smollm2/pirate --served-name pirate")
def update(
    session: Session,
    adapter: AdapterArgument,
    *,
    served_name: ServedNameOption = None,
    labels: LabelsChange,
    card: CardChange,
    etag: EtagOption = "",
    validate_only: ValidateOption = False,
) -> None:
    """Change what the flags name and leave the rest. A changed card makes a new revision."""
    new_labels = labels.labels()
    paths = [f"revision.card.{field}" for field in card.fields()]
    with session.client() as client:
        response = client.update_adapter(
            adapter,
            served_name=served_name,
            labels=new_labels,
            card=card.fields(),
            update_mask=[*paths, *given(served_name=served_name, labels=new_labels)],
            etag=etag,
            validate_only=validate_only,
        )
    what = f"{response.adapter.name} revision {response.adapter.revision.number}"
    changed(session, results.to_json(response), what, "updated", response.catalog_revision, validate_only)


@command(group, "rollback", example="broadsheet adapter rollback smollm2/pirate 1")
def rollback(
    session: Session,
    adapter: AdapterArgument,
    revision: RevisionArgument,
    *,
    etag: EtagOption = "",
    validate_only: ValidateOption = False,
) -> None:
    """Make a new revision with the files and card of an earlier one, if its files are still the
    same."""
    with session.client() as client:
        response = client.rollback_adapter(adapter, revision, etag=etag, validate_only=validate_only)
    what = f"{response.adapter.name} revision {response.adapter.revision.number}, the content of {revision},"
    changed(session, results.to_json(response), what, "made", response.catalog_revision, validate_only)


@command(group, "undelete", example="broadsheet adapter undelete smollm2/pirate")
def undelete(
    session: Session, adapter: AdapterArgument, *, etag: EtagOption = "", validate_only: ValidateOption = False
) -> None:
    """Take a deletion back."""
    with session.client() as client:
        response = client.undelete_adapter(adapter, etag=etag, validate_only=validate_only)
    changed(
        session, results.to_json(response), response.adapter.name, "undeleted", response.catalog_revision, validate_only
    )


@command(group, "delete", example="broadsheet adapter delete smollm2/pirate")
def delete(
    session: Session,
    adapter: AdapterArgument,
    *,
    force: Annotated[bool, typer.Option("--force", help="Take it out of the routes that refer to it.")] = False,
    etag: EtagOption = "",
    validate_only: ValidateOption = False,
) -> None:
    """Delete an adapter. One that routes refer to is refused, unless --force."""
    with session.client() as client:
        response = client.delete_adapter(adapter, force=force, etag=etag, validate_only=validate_only)
    deleted(session, results.to_json(response), adapter, response.catalog_revision, validate_only)
