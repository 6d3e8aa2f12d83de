"""The commands that update, roll back and undelete, against a real control plane."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adapter_directories import write_adapter
from tests.stream.cli_world import SIMULATED, Cli
from tests.stream.client_world import running_control_plane


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with running_control_plane(tmp_path) as address:
        monkeypatch.setenv("BROADSHEET_ENDPOINT", address)
        yield Cli(capsys)


def test_a_model_is_updated_rolled_back_deleted_and_undeleted(cli: Cli) -> None:
    assert cli("model", "register", "m", *SIMULATED, "--must-create") == 0
    assert cli("model", "register", "m", *SIMULATED, "--must-create") == 1
    assert "ALREADY_REGISTERED" in cli.err
    assert cli("model", "update", "m", "--description", "good", "--label", "team=a", "--min-replicas", "2") == 2
    assert "max_replicas must be at least min_replicas" in cli.err
    flags = ("--description", "good", "--label", "team=a", "--min-replicas", "2", "--max-replicas", "3")
    assert cli("model", "update", "m", *flags, "--validate-only") == 0
    assert cli.out == "models/m revision 2 would be updated; nothing was written\n"
    assert cli("model", "update", "m", *flags) == 0
    assert cli.out == "models/m revision 2 updated; catalog revision 2\n"
    assert cli("model", "get", "m", "-o", "json") == 0
    got = json.loads(cli.out)
    assert (got["labels"], got["revision"]["card"]["description"]) == ({"team": "a"}, "good")
    assert got["revision"]["spec"]["scaling"]["initial_replicas"] == 2
    assert cli("model", "update", "m", "--no-labels", "--etag", 'W/"stale"') == 1
    assert "got 'W/\"stale\"'" in cli.err
    assert got["etag"] in cli.err
    assert "hint: get it again" in cli.err
    assert cli("model", "update", "m", "--no-labels", "--etag", got["etag"]) == 0
    assert cli("model", "update", "m") == 2
    assert "allowed: served_name, labels" in cli.err
    assert cli("model", "rollback", "m", "1") == 0
    assert cli.out == "models/m revision 3, the content of 1, made; catalog revision 4\n"
    assert cli("model", "delete", "m") == 0
    assert cli("model", "list") == 0
    assert "no models" in cli.out
    assert cli("model", "list", "--show-deleted") == 0
    assert "DELETED" in cli.out
    assert cli("model", "get", "m") == 0
    assert "can be undeleted until" in cli.out
    assert cli("model", "register", "m", *SIMULATED) == 1
    assert "hint: broadsheet model undelete" in cli.err
    assert cli("model", "undelete", "m") == 0
    assert cli.out == "models/m with 0 adapters undeleted; catalog revision 6\n"


def test_an_adapter_is_updated_rolled_back_deleted_and_undeleted(cli: Cli, tmp_path: Path) -> None:
    first, second = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "two", fill=b"\1")
    assert cli("model", "register", "m", *SIMULATED, "--lora-max-rank", "16") == 0
    assert cli("adapter", "register", "m", "a", "--source", str(first), "--must-create") == 0
    assert cli("adapter", "register", "m", "a", "--source", str(second)) == 0
    assert cli("adapter", "update", "m/a", "--served-name", "x", "--license", "MIT", "--label", "a=b") == 0
    assert cli.out == "models/m/adapters/a revision 3 updated; catalog revision 4\n"
    assert cli("adapter", "rollback", "m/a", "1") == 0
    assert cli("adapter", "revisions", "m/a") == 0
    rows = [line.split() for line in cli.out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["4", "3", "2", "1"]
    assert rows[0][1] == "current"
    assert cli("adapter", "delete", "m/a") == 0
    assert cli("adapter", "list") == 0
    assert "DELETED" not in cli.out
    assert cli("adapter", "list", "m", "--show-deleted") == 0
    assert "DELETED" in cli.out
    assert cli("adapter", "undelete", "m/a") == 0
    assert cli("model", "delete", "m", "--force") == 0
    assert cli("adapter", "undelete", "m/a") == 1
    assert "hint: broadsheet model undelete" in cli.err
    assert cli("model", "undelete", "m") == 0
    assert cli.out == "models/m with 1 adapters undeleted; catalog revision 9\n"
