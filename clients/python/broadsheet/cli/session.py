"""A run of the command line: where to, with which credentials, and what prints where."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

import typer
from rich.console import Console

from broadsheet._connection.options import DEFAULT_ENDPOINT
from broadsheet.client import Client
from protocol.transport.credentials import Credentials, CredentialsError
from protocol.transport.home import absolute

PIPE_WIDTH = 200
"""Columns of a table that goes into a pipe or a file, unless COLUMNS is set: rich would use 80."""


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    """For people. The layout may change."""
    JSON = "json"
    """For programs: the messages of the API in proto's JSON form, with their own field names."""
    YAML = "yaml"
    """The same as YAML."""


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

    @property
    def escapes(self) -> bool:
        """Whether results for programs escape what is not ASCII, because stdout cannot hold it."""
        return not self.stdout.encoding.startswith("utf")

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
        """Print a line for people on stderr."""
        self.stderr.print(message, markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Options given before the subcommand."""

    given: Mapping[str, object]
    """The options of every command, by parameter. None: not given."""


def console(file: IO[str]) -> Console:
    """A console on `file`: as wide as the terminal, or wide enough for a pipe."""
    width = None if file.isatty() else int(os.environ.get("COLUMNS") or PIPE_WIDTH)
    return Console(file=file, width=width, highlight=False)


def open_session(context: typer.Context, given: Mapping[str, object]) -> Session:
    """The session of a command.

    Args:
        context: Has the options before the subcommand.
        given: The command's own options, which come first. Last come environment and defaults.
    """
    before = (context.find_object(Defaults) or Defaults(given={})).given
    chosen = {name: value if value is not None else before.get(name) for name, value in given.items()}
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
        token_file=_path(token_file) if token_file is not None else None,
        **{name: _path(value) for name, value in files.items() if value},
        insecure=bool(chosen["insecure"]) or os.environ.get("BROADSHEET_INSECURE") == "1",
    )


def _path(given: object) -> Path:
    try:
        return absolute(Path(str(given)))
    except ValueError as error:
        raise CredentialsError(str(error)) from error
