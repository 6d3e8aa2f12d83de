"""`broadsheet controlplane` and `broadsheet dataplane`: the programs of the planes."""

from __future__ import annotations

from importlib import import_module

import typer

from broadsheet.cli.report import EXIT_FAILED

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Every flag, --help included, goes to the plane."""


def controlplane(context: typer.Context) -> None:
    """Run a control plane. `broadsheet controlplane --help` lists its flags.

    `broadsheet controlplane keys` makes, lists and rotates the keys that sign snapshots.
    """
    _run("controlplane", context.args)


def dataplane(context: typer.Context) -> None:
    """Run a data plane, or show (`status`) or end (`stop`) one on a Ray cluster.

    `broadsheet dataplane --help` lists its flags; so does `--help` after `status` and `stop`.
    """
    _run("dataplane", context.args)


def _run(plane: str, arguments: list[str]) -> None:
    try:
        main = import_module(f"{plane}.__main__").main
    except ModuleNotFoundError as error:
        typer.echo(missing_extra(plane, error), err=True)
        raise typer.Exit(EXIT_FAILED) from error
    raise typer.Exit(main(arguments) or 0)


def missing_extra(plane: str, error: ModuleNotFoundError) -> str:
    """The message for a user who lacks the extra of a plane."""
    return f"error: {plane} needs {error.name}, which is not installed\n  hint: pip install 'broadsheet[{plane}]'"
