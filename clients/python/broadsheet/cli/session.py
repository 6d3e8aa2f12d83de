"""What every command shares: its options, the two consoles, and the way commands are declared."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Concatenate, ParamSpec

import typer
from rich.console import Console

from broadsheet._connection.options import DEFAULT_ENDPOINT
from broadsheet.client import Client
from protocol.transport.credentials import Credentials, CredentialsError

PIPE_WIDTH = 200
"""Columns of a table that goes into a pipe or a file, unless COLUMNS says otherwise: rich would cut
it at 80."""

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
        help=f"Control plane. Default: $BROADSHEET_ENDPOINT, else {DEFAULT_ENDPOINT}.",
        rich_help_panel="Everywhere",
    ),
]
OutputOption = Annotated[
    Output | None,
    typer.Option("--output", "-o", help="How to print results. Default: table.", rich_help_panel="Everywhere"),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="Bearer token. Default: $BROADSHEET_TOKEN, else the one that a control plane on this machine left.",
        rich_help_panel="Everywhere",
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file", help="File with the token. Default: $BROADSHEET_TOKEN_FILE.", rich_help_panel="Everywhere"
    ),
]
TlsCaOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        help="Authorities to check the control plane by. Default: $BROADSHEET_TLS_CA, else gRPC's own.",
        rich_help_panel="Everywhere",
    ),
]
TlsCertOption = Annotated[
    Path | None,
    typer.Option("--tls-cert", help="Client certificate. Default: $BROADSHEET_TLS_CERT.", rich_help_panel="Everywhere"),
]
TlsKeyOption = Annotated[
    Path | None,
    typer.Option("--tls-key", help="Its key. Default: $BROADSHEET_TLS_KEY.", rich_help_panel="Everywhere"),
]
InsecureOption = Annotated[
    bool | None,
    typer.Option(
        "--insecure", help="Talk to another machine without TLS: $BROADSHEET_INSECURE=1.", rich_help_panel="Everywhere"
    ),
]

SHARED: Mapping[str, object] = {
    "endpoint": EndpointOption,
    "output": OutputOption,
    "token": TokenOption,
    "token_file": TokenFileOption,
    "tls_ca": TlsCaOption,
    "tls_cert": TlsCertOption,
    "tls_key": TlsKeyOption,
    "insecure": InsecureOption,
}
"""The options of every command, by parameter. Each is None when it was not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One run of the command line."""

    endpoint: str
    credentials: Credentials
    output: Output
    stdout: Console
    """Results, and nothing else."""
    stderr: Console
    """Progress, messages, errors."""

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client of the control plane."""
        try:
            client = Client(self.endpoint, credentials=self.credentials)
        except CredentialsError:
            raise
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

    given: Mapping[str, object]
    """Those of `SHARED`, by parameter; None: not given."""


def console(file: IO[str]) -> Console:
    """A console on `file`: as wide as the terminal, or wide enough for a pipe."""
    width = None if file.isatty() else int(os.environ.get("COLUMNS") or PIPE_WIDTH)
    return Console(file=file, width=width, highlight=False)


def open_session(context: typer.Context, given: Mapping[str, object]) -> Session:
    """The session of a command: its own options, else those before the subcommand, else environment
    and defaults."""
    before = (context.find_object(Defaults) or Defaults(given={})).given
    chosen = {name: value if (value := given.get(name)) is not None else before.get(name) for name in SHARED}
    output = chosen["output"]
    return Session(
        endpoint=str(chosen["endpoint"] or os.environ.get("BROADSHEET_ENDPOINT") or DEFAULT_ENDPOINT),
        credentials=_credentials(chosen),
        output=output if isinstance(output, Output) else Output.TABLE,
        stdout=console(sys.stdout),
        stderr=console(sys.stderr),
    )


def _credentials(chosen: Mapping[str, object]) -> Credentials:
    token, token_file = str(chosen["token"] or ""), chosen["token_file"]
    if not token and token_file is None:
        token, token_file = os.environ.get("BROADSHEET_TOKEN") or "", None
        token_file = None if token else os.environ.get("BROADSHEET_TOKEN_FILE") or None
    files = {
        name: chosen[name] or os.environ.get(f"BROADSHEET_{name.upper()}") for name in ("tls_ca", "tls_cert", "tls_key")
    }
    return Credentials(
        token=token,
        token_file=Path(str(token_file)) if token_file is not None else None,
        **{name: Path(str(value)) for name, value in files.items() if value},
        insecure=bool(chosen["insecure"]) or os.environ.get("BROADSHEET_INSECURE") == "1",
    )


def command(
    group: typer.Typer, name: str, *, example: str
) -> Callable[[Callable[Concatenate[Session, P], None]], Callable[Concatenate[Session, P], None]]:
    """Declare a command of `group`. Its function gets a `Session` first; the options of `SHARED`
    are added to it.

    Args:
        group: Where it belongs.
        name: What to type.
        example: A line that works, for the help text.
    """

    def declare(body: Callable[Concatenate[Session, P], None]) -> Callable[Concatenate[Session, P], None]:
        def run(*, context: typer.Context, **arguments: object) -> None:
            given = {name: arguments.pop(name) for name in SHARED}
            body(open_session(context, given), **arguments)  # type: ignore[call-arg, arg-type]  # typer calls by name

        _, *own = inspect.signature(body, eval_str=True).parameters.values()
        shared = {"context": typer.Context, **SHARED}
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
