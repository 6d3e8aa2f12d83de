"""The command line where no server is needed: help, the planes' commands, output, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from broadsheet import errors
from broadsheet.cli import main, report
from broadsheet.cli.commands import planes
from broadsheet.cli.view import parts, results, states
from broadsheet.progress import ServingProgress
from broadsheet.types import Model, ModelRevision, ModelSpec, ResourceState
from controlplane.errors import Reason
from protocol.validation import FieldViolation

COMMANDS = [
    *(("model", name) for name in ("register", "list", "get", "revisions", "delete")),
    *(("model", "rollout", name) for name in ("status", "pause", "resume", "abort")),
    *(("adapter", name) for name in ("register", "list", "get", "delete")),
    *(("route", name) for name in ("set", "list", "get", "revisions", "delete")),
    *(("key", name) for name in ("create", "list", "get", "revoke")),
    *(("snapshot", name) for name in ("list", "show")),
    *(("fleet", name) for name in ("list", "get", "wait", "remove", "rollout", "halt", "resume", "force")),
    ("chat",),
    ("up",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str], command: Sequence[str]) -> None:
    assert main([*command, "--help"]) == 0
    assert f"Example: broadsheet {' '.join(command)}" in capsys.readouterr().out


def test_version_shows_the_release(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("broadsheet ")


@pytest.mark.parametrize("plane", ["controlplane", "dataplane"])
def test_planes_get_every_flag_and_give_the_exit_code(monkeypatch: pytest.MonkeyPatch, plane: str) -> None:
    seen: list[list[str]] = []

    def run(arguments: list[str]) -> int:
        seen.append(arguments)
        return 7

    monkeypatch.setitem(sys.modules, f"{plane}.__main__", SimpleNamespace(main=run))
    assert main([plane, "--listen", "127.0.0.1:1", "--help", "-x", "y"]) == 7
    assert seen == [["--listen", "127.0.0.1:1", "--help", "-x", "y"]]


def test_a_missing_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_ray(name: str) -> object:
        raise ModuleNotFoundError("No module named 'ray'", name="ray")

    monkeypatch.setattr(planes, "import_module", no_ray)
    assert main(["dataplane"]) == 1
    assert "pip install 'broadsheet[dataplane]'" in capsys.readouterr().err


def test_ctrl_c_exits_with_130_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("broadsheet.client.Client.list_data_planes", interrupted)
    assert main(["fleet", "list"]) == 130


def test_importing_the_package_does_not_load_grpc() -> None:
    # The pure cores of the planes import protocol.names.
    check = "import protocol.names, sys; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidArgument("x"), 2),
        (errors.InvalidSpec("x"), 2),
        (errors.OutOfRange("x"), 2),
        (errors.NotFound("x"), 1),
        (errors.Internal("x"), 1),
        (errors.Unavailable("x"), 3),
        (errors.DeadlineExceeded("x"), 3),
        (errors.ServingFailed("x", reason="R", data_plane="dataPlanes/a", resource="models/m"), 1),
        (
            errors.ServingTimeout(
                "x", progress=ServingProgress(resource="m", revision_number=1, catalog_revision=1, data_planes=())
            ),
            1,
        ),
    ],
)
def test_exit_codes(error: errors.BroadsheetError, code: int) -> None:
    assert report.exit_code(error) == code


def test_brackets_in_an_error_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    violation = FieldViolation(field="labels[red]", description="got [bold]x[/bold]")
    error = errors.InvalidArgument("[not markup]", reason="INVALID_FIELDS", violations=(violation,))
    report.print_error(Console(width=200), error, "127.0.0.1:1")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["error: [not markup]", "  labels[red]: got [bold]x[/bold]", "  reason: INVALID_FIELDS"]


def test_every_hint_is_for_an_existing_reason() -> None:
    of_this_side = {"INVALID_SPEC", "KEY_NOT_TRUSTED", "SIGNATURE_MISSING", "WEIGHTS_MISSING"}
    assert set(report.HINTS) - {reason.value for reason in Reason} == of_this_side


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-3, "0 s ago"), (0, "0 s ago"), (59.9, "59 s ago"), (60, "1 min ago"), (7199, "1 h ago"), (90000, "1 d ago")],
)
def test_times_are_relative(seconds: float, expected: str) -> None:
    assert parts.ago(seconds) == expected


def test_states_of_several_data_planes_are_counted() -> None:
    ready, failed = ResourceState.RESOURCE_STATE_READY, ResourceState.RESOURCE_STATE_FAILED
    assert states.states_text([]).plain == "-"
    assert states.states_text([ready, ready]).plain == "READY"
    assert states.states_text([failed, ready, ready]).plain == "READY 2, FAILED 1"


def test_json_keeps_field_names_and_whole_numbers_whole() -> None:
    spec = ModelSpec()
    spec.engine.args.update({"max_model_len": 2048, "share": 0.5, "deep": [{"n": 1}]})
    result = results.to_json(Model(served_name="m", revision=ModelRevision(spec=spec)))
    text = json.dumps(result)
    assert '"served_name": "m"' in text
    assert '"max_model_len": 2048,' in text or '"max_model_len": 2048}' in text
    assert '"share": 0.5' in text
    assert '"n": 1}' in text
    assert yaml.safe_load(yaml.safe_dump(result)) == result


def test_up_says_which_extra_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else object())
    assert main(["up", "--data-dir", str(tmp_path)]) == 2
    assert "pip install 'broadsheet[dataplane]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
