"""`broadsheet apply` and `broadsheet export`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from broadsheet import applying, exporting
from broadsheet.applying import Action, Prune, Step
from broadsheet.cli.report import EXIT_FAILED, EXIT_USAGE, print_error
from broadsheet.cli.session import Output, Session
from broadsheet.cli.view import results
from broadsheet.cli.view.steps import steps_json, steps_view
from broadsheet.errors import BroadsheetError
from broadsheet.specs.declared import load_declared
from broadsheet.specs.requests import resource_name

_NOTHING = "nothing to do: the registry is as the files say"


def apply(
    session: Session,
    *,
    file: Annotated[
        list[Path],
        typer.Option(
            "--file", "-f", metavar="FILE_OR_DIR", help="YAML files, directories of them, or - for stdin. Repeatable."
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="With --dry-run: exit 1 when something would change.")
    ] = False,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Delete what an apply of the same --owner made, and no file declares."),
    ] = False,
    prune_all: Annotated[
        bool, typer.Option("--prune-all", help="Delete everything that no file declares, whoever made it.")
    ] = False,
    owner: Annotated[str, typer.Option(help="Who applies: what --prune goes by, kept as a label.")] = "apply",
) -> None:
    """Make the registry what YAML files declare: models, adapters and routes, one YAML document
    each.

    Nothing is applied when any file is wrong; every error of every file is shown. The same again
    writes nothing.
    """
    declared = load_declared(file)
    how = Prune.ALL if prune_all else Prune.OWN if prune else Prune.NOTHING
    with session.client() as client:
        steps, problems = applying.plan(client, declared, owner=owner, prune=how)
        for problem in problems:
            session.say(f"{problem.place} {problem.name}:")
            print_error(session.stderr, problem.error, session.endpoint)
        if problems:
            session.say("nothing was applied")
            raise typer.Exit(EXIT_USAGE if any(problem.is_file_wrong for problem in problems) else EXIT_FAILED)
        due = [step for step in steps if step.action is not Action.KEEP]
        done: list[Step] = []
        try:
            if not dry_run:
                applying.carry_out(client, steps, on_done=done.append)
        except BroadsheetError:
            if done:
                session.stderr.print(
                    steps_view(done, "done before it failed; apply again when the cause is gone", nothing=_NOTHING)
                )
            raise
    view = steps_view(due, "would change" if dry_run else "applied", nothing=_NOTHING)
    results.show(session, steps_json(due, applied=not dry_run), view)
    if dry_run and exit_code and due:
        raise typer.Exit(EXIT_FAILED)


def export(
    session: Session,
    *,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", "-d", metavar="DIR", help="Write one file per resource. Default: all to stdout."),
    ] = None,
) -> None:
    """Write models, adapters and routes as YAML that `broadsheet apply` takes back.

    Everything is stated, defaults too, so that it means the same to another release. API keys are
    not in it.
    """
    with session.client() as client:
        requests = [exporting.request_of(resource) for resource in applying.registered(client).values()]
    if directory is None:
        if session.output is Output.JSON:
            results.show(session, {"resources": [exporting.fields_of(request) for request in requests]}, "")
            return
        for request in requests:
            session.stdout.file.write(f"---\n{exporting.to_yaml(request, escapes=session.escapes)}")
        return
    for request in requests:
        path = directory / f"{resource_name(request)}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(exporting.to_yaml(request), encoding="utf-8")
    session.say(f"{len(requests)} resources written to {directory}")
