"""The flags of `dataplane status` and `stop`."""

from __future__ import annotations

import pytest

from dataplane.launch import commands
from dataplane.settings import SettingsError


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_flags_of_a_launcher_are_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.run(command, ["--http", "127.0.0.1:8000"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --http" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "argv", "words"),
    [
        ("stop", ["--timeout-s", "0"], ["timeout_s", "0", "1"]),
        ("status", ["-o", "xml"], ["output", "xml", "json"]),
        ("status", ["--data-plane-id", "Not An Id"], ["data_plane_id", "Not An Id"]),
        ("stop", ["--ray-address", "ray://host:10001"], ["ray_address", "ray://host:10001"]),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(command: str, argv: list[str], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        commands.run(command, argv)
    for word in words:
        assert word in str(caught.value)


def test_a_cluster_that_does_not_answer_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run("status", ["--ray-address", "127.0.0.1:1"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("broadsheet dataplane status: ray_address: got 127.0.0.1:1, where no Ray cluster answers")


def test_settings_of_the_launcher_in_the_environment_are_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BROADSHEET_DATAPLANE_HTTP", "127.0.0.1:8000")
    monkeypatch.setenv("BROADSHEET_DATAPLANE_RAY_ADDRESS", "127.0.0.1:1")
    assert commands.run("stop", []) == 1
    assert "got 127.0.0.1:1" in capsys.readouterr().err
