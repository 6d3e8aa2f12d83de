"""How commands are declared: the options of every command, and groups of options.

A group of options is a frozen dataclass whose fields have Typer's annotations and defaults. A
command takes the group as one parameter; Typer sees the fields, in their order, as parameters of
the command:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Scaling:
        min_replicas: Annotated[int | None, typer.Option(help="Replicas kept at all times.")] = None
        max_replicas: Annotated[int | None, typer.Option(help="Replicas at most.")] = None

    @command(group, "update", example="broadsheet model update m --max-replicas 4")
    def update(session: Session, model: ModelArgument, *, scaling: Scaling) -> None: ...
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Concatenate, ParamSpec, get_type_hints

import typer

from broadsheet._connection.options import DEFAULT_ENDPOINT
from broadsheet.cli.session import Output, Session, open_session

P = ParamSpec("P")

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


def command(
    group: typer.Typer, name: str, *, example: str
) -> Callable[[Callable[Concatenate[Session, P], None]], Callable[Concatenate[Session, P], None]]:
    """Declare a command. Its function takes a `Session` first, then its own parameters.

    Args:
        group: The Typer group that gets the command.
        name: What users type.
        example: A line that works, for the help text.
    """

    def declare(body: Callable[Concatenate[Session, P], None]) -> Callable[Concatenate[Session, P], None]:
        _, *own = inspect.signature(body, eval_str=True).parameters.values()

        def run(*, context: typer.Context, **arguments: object) -> None:
            given = {name: arguments.pop(name) for name in SHARED}
            folded = {parameter.name: _fold(parameter, arguments) for parameter in own}
            body(open_session(context, given), **folded)  # type: ignore[call-arg, arg-type]  # by name

        shared = {"context": typer.Context, **SHARED}
        parameters = [unfolded for parameter in own for unfolded in _unfold(parameter)]
        parameters += [_keyword(key, annotation, None) for key, annotation in shared.items()]
        # Typer reads a command's options from its signature and its type hints.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = body.__doc__
        group.command(name, epilog=f"Example: `{example}`")(run)
        return body

    return declare


def _unfold(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """The parameters that Typer sees in place of one: those of a group of options, else itself."""
    kind = parameter.annotation
    if not dataclasses.is_dataclass(kind):
        yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        return
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        yield from _unfold(_keyword(field.name, hints[field.name], default))


def _fold(parameter: inspect.Parameter, arguments: Mapping[str, object]) -> object:
    """The value of a parameter from what Typer passes: the inverse of `_unfold`."""
    kind = parameter.annotation
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        return arguments[parameter.name]
    hints = get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    return kind(**{field.name: _fold(_keyword(field.name, hints[field.name], None), arguments) for field in fields})


def _keyword(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
