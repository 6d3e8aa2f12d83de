"""What every command shares: `--endpoint` and `--output`, the two consoles, and the way commands are declared."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Annotated, Concatenate, ParamSpec

import typer
from rich.console import Console

from modelplane._channel import DEFAULT_ENDPOINT
from modelplane.client import Client

PIPE_WIDTH = 200
"""Columns of a table that goes into a pipe or a file, unless COLUMNS says otherwise: rich would cut it at 80."""

P = ParamSpec("P")


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    """For people. Its form may change."""
    JSON = "json"
    """For programs: the messages of the API in proto's JSON form, with their own field names."""
    YAML = "yaml"
    """The same as YAML."""


EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="HOST:PORT",
        help=f"Control plane. Default: $MODELPLANE_ENDPOINT, else {DEFAULT_ENDPOINT}.",
        rich_help_panel="Everywhere",
    ),
]
OutputOption = Annotated[
    Output | None,
    typer.Option("--output", "-o", help="How to print results. Default: table.", rich_help_panel="Everywhere"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One run of the command line."""

    endpoint: str
    output: Output
    stdout: Console
    """Results, and nothing else."""
    stderr: Console
    """Progress, messages, errors."""

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client of the control plane."""
        try:
            client = Client(self.endpoint)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--endpoint") from error
        with client:
            yield client

    def say(self, message: str) -> None:
        """A line for people; not a result."""
        self.stderr.print(message, markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Options given before the subcommand."""

    endpoint: str | None
    output: Output | None


def console(file: IO[str]) -> Console:
    """A console on `file`: as wide as the terminal, or wide enough for a pipe."""
    width = None if file.isatty() else int(os.environ.get("COLUMNS") or PIPE_WIDTH)
    return Console(file=file, width=width, highlight=False)


def open_session(context: typer.Context, endpoint: str | None, output: Output | None) -> Session:
    """The session of a command: its own options, else those before the subcommand, else environment and defaults."""
    defaults = context.find_object(Defaults) or Defaults(endpoint=None, output=None)
    return Session(
        endpoint=endpoint or defaults.endpoint or os.environ.get("MODELPLANE_ENDPOINT") or DEFAULT_ENDPOINT,
        output=output or defaults.output or Output.TABLE,
        stdout=console(sys.stdout),
        stderr=console(sys.stderr),
    )


def command(
    group: typer.Typer, name: str, *, example: str
) -> Callable[[Callable[Concatenate[Session, P], None]], Callable[Concatenate[Session, P], None]]:
    """Declare a command of `group`. Its function gets a `Session` first; `--endpoint` and `--output` are added to it.

    Args:
        group: Where it belongs.
        name: What to type.
        example: A line that works, for the help text.
    """

    def declare(body: Callable[Concatenate[Session, P], None]) -> Callable[Concatenate[Session, P], None]:
        def run(*, context: typer.Context, endpoint: str | None, output: Output | None, **arguments: object) -> None:
            body(open_session(context, endpoint, output), **arguments)  # type: ignore[call-arg, arg-type]  # typer calls by name

        _, *own = inspect.signature(body, eval_str=True).parameters.values()
        shared = {"context": typer.Context, "endpoint": EndpointOption, "output": OutputOption}
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        parameters += [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for key, annotation in shared.items()
        ]
        # Typer reads a command's options from its signature and its type hints.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = body.__doc__
        group.command(name, epilog=f"Example: `{example}`")(run)
        return body

    return declare
