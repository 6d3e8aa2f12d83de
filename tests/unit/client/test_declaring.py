"""Groups of options: what Typer sees of them, and what the command gets."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.main import get_command

from broadsheet.cli.declaring import SHARED, command
from broadsheet.cli.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    cpus: Annotated[float, typer.Option(help="CPUs.")] = 1.0
    engine_arg: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    source: Annotated[str, typer.Option(help="Required.")]
    inner: Inner
    force: Annotated[bool, typer.Option("--force")] = False


@pytest.fixture
def app() -> typer.Typer:
    return typer.Typer()


def declared(app: typer.Typer) -> list[tuple[str, Outer, str]]:
    """Declares a command with a group; each call of it is added to the result."""
    calls: list[tuple[str, Outer, str]] = []

    @command(app, "make", example="make a --source b")
    def make(
        session: Session,
        name: Annotated[str, typer.Argument()],
        *,
        outer: Outer,
        label: Annotated[str, typer.Option()] = "none",
    ) -> None:
        """Make it."""
        calls.append((name, outer, label))

    return calls


def test_a_group_stands_for_its_options_in_their_order(app: typer.Typer) -> None:
    declared(app)
    (registered,) = app.registered_commands
    assert registered.callback is not None
    names = list(inspect.signature(registered.callback).parameters)
    assert names == ["name", "source", "cpus", "engine_arg", "force", "label", "context", *SHARED]


def test_the_command_gets_the_group_with_what_was_given(app: typer.Typer) -> None:
    calls = declared(app)
    flags = ["--source", "s", "--engine-arg", "a=1", "--engine-arg", "b=2", "--force"]
    get_command(app).main(["n", *flags], standalone_mode=False)
    inner = Inner(cpus=1.0, engine_arg=["a=1", "b=2"])
    assert calls == [("n", Outer(source="s", inner=inner, force=True), "none")]


def test_a_field_without_a_default_is_a_required_option(app: typer.Typer, capsys: pytest.CaptureFixture[str]) -> None:
    calls = declared(app)
    with pytest.raises(SystemExit) as ended:
        get_command(app).main(["n"])
    assert ended.value.code == 2
    assert "--source" in capsys.readouterr().err
    assert calls == []
