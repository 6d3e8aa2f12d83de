"""The command line, `broadsheet`.

Owns flags, output and exit codes. May import the client and `broadsheet.demo`; nothing imports it.

Exit codes: 0 done; 1 failed; 2 wrong input or usage; 3 the control plane or data plane could not be
reached or did not answer in time; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import broadsheet
from broadsheet._connection.options import DEFAULT_ENDPOINT
from broadsheet.cli import streams
from broadsheet.cli.commands import adapter, bundle, fleet, key, model, planes, route, snapshot
from broadsheet.cli.commands.apply import apply, export
from broadsheet.cli.commands.audit import audit
from broadsheet.cli.commands.chat import chat
from broadsheet.cli.declaring import (
    EndpointOption,
    InsecureOption,
    OutputOption,
    TlsCaOption,
    TlsCertOption,
    TlsKeyOption,
    TokenFileOption,
    TokenOption,
    command,
)
from broadsheet.cli.report import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, exit_code, print_error, print_failure
from broadsheet.cli.session import Defaults, console
from broadsheet.cli.up.command import up
from broadsheet.errors import BroadsheetError
from protocol.transport.credentials import CredentialsError

__all__ = ["app", "main"]

app = typer.Typer(
    name="broadsheet",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong input, 3 not reachable, 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"broadsheet {broadsheet.__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    endpoint: EndpointOption = None,
    output: OutputOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    insecure: InsecureOption = None,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the release and exit.")
    ] = False,
) -> None:
    """A registry of language models that pushes versioned snapshots to data planes running vLLM on
    Ray Serve."""
    context.obj = Defaults(
        given={
            "endpoint": endpoint,
            "output": output,
            "token": token,
            "token_file": token_file,
            "tls_ca": tls_ca,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "insecure": insecure,
        }
    )


command(snapshot.group, "verify", example="broadsheet snapshot verify catalog.bundle --trusted-keys keys.pem")(
    bundle.verify
)
command(snapshot.group, "export", example="broadsheet snapshot export catalog.bundle")(bundle.export)
command(snapshot.group, "import", example="broadsheet snapshot import catalog.bundle --trusted-keys keys.pem")(
    bundle.import_
)
app.add_typer(model.group, name="model")
app.add_typer(adapter.group, name="adapter")
app.add_typer(route.group, name="route")
app.add_typer(key.group, name="key")
app.add_typer(snapshot.group, name="snapshot")
app.add_typer(fleet.group, name="fleet")
command(app, "apply", example="broadsheet apply -f registry/ --dry-run")(apply)
command(app, "export", example="broadsheet export -d registry/")(export)
command(app, "audit", example="broadsheet audit --resource smollm2 --limit 5")(audit)
command(app, "chat", example='broadsheet chat smollm2 "What is the capital of France?"')(chat)
app.command("up", epilog="Example: `broadsheet up --demo`")(up)
app.command(
    "controlplane",
    context_settings=planes.PASS_ON,
    epilog="Example: `broadsheet controlplane --listen 127.0.0.1:8300`",
)(planes.controlplane)
app.command(
    "dataplane",
    context_settings=planes.PASS_ON,
    epilog="Example: `broadsheet dataplane --controlplane 127.0.0.1:8300`",
)(planes.dataplane)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: Without the name of the program. Default: those of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    streams.prepare()
    try:
        code = _run(given)
        streams.finish()
    except BroadsheetError as error:
        print_error(console(sys.stderr), error, _endpoint(given))
        return exit_code(error)
    except CredentialsError as error:
        print_failure(console(sys.stderr), str(error))
        return EXIT_USAGE
    except UnicodeError:
        print_failure(console(sys.stderr), f"{_source(given)} is not UTF-8")
        return EXIT_USAGE
    except OSError as error:
        streams.give_up_output()
        what = error.filename if error.filename is not None else "the output cannot be written"
        print_failure(console(sys.stderr), f"{what}: {error.strerror or error}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        app(args=arguments, prog_name="broadsheet")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_FAILED if end.code else 0
    return 0


def _source(arguments: Sequence[str]) -> str:
    """What is not UTF-8, without its content, which may be a secret."""
    for position, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            return f"argument {position}"
    return "standard input or the environment"


def _endpoint(arguments: Sequence[str]) -> str:
    """The endpoint of a command, for an error message."""
    for index, argument in enumerate(arguments):
        if argument.startswith("--endpoint="):
            return argument.partition("=")[2]
        if argument == "--endpoint" and index + 1 < len(arguments):
            return arguments[index + 1]
    return os.environ.get("BROADSHEET_ENDPOINT") or DEFAULT_ENDPOINT
