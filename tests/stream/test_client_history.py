"""What the command line says of the past: the audit log, differences, rollback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from broadsheet.client import Client
from tests.stream.cli_world import SIMULATED, Cli
from tests.stream.client_world import running_control_plane


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with running_control_plane(tmp_path) as address:
        monkeypatch.setenv("BROADSHEET_ENDPOINT", address)
        yield address


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def two_revisions(cli: Cli, endpoint: str) -> str:
    assert cli("model", "register", "m", *SIMULATED, "--max-replicas", "1") == 0
    assert cli("model", "register", "m", *SIMULATED, "--max-replicas", "4", "--label", "token=hunter2") == 0
    return endpoint


@pytest.mark.usefixtures("two_revisions")
def test_audit_shows_who_changed_which_field(cli: Cli) -> None:
    assert cli("audit") == 0
    assert "spec.scaling.max_replicas: 1 -> 4" in cli.out
    assert "labels.token: (unset) -> [redacted]" in cli.out
    assert "hunter2" not in cli.out
    assert "127.0.0.1:" in cli.out
    assert "RegisterModel" in cli.out
    assert cli("audit", "--limit", "1", "-o", "json") == 0
    (event,) = json.loads(cli.out)["events"]
    assert (event["catalog_revision"], event["method"], event["resource"]) == ("2", "RegisterModel", "models/m")
    assert event["request_id"]
    assert event["changes"][0]["before"]["revision"]["spec"]["scaling"]["max_replicas"] == 1
    assert cli("audit", "-o", "yaml") == 0
    assert len(yaml.safe_load(cli.out)["events"]) == 2


@pytest.mark.usefixtures("two_revisions")
def test_audit_is_filtered(cli: Cli) -> None:
    assert cli("audit", "--resource", "m", "--until-revision", "1") == 0
    assert "+ models/m" in cli.out
    assert cli("audit", "--resource", "m/a") == 0
    assert cli("audit", "--principal", "nobody") == 0
    assert "no events" in cli.out
    assert cli("audit", "--since", "2999-01-01") == 0
    assert "no events" in cli.out
    assert cli("audit", "--since-revision", "2", "--until-revision", "1") == 2
    assert "min_revision must not be above max_revision" in cli.err
    assert cli("audit", "--method", "not a method") == 2
    assert cli("audit", "--since", "yesterday") == 2


def test_audit_follows(two_revisions: str) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from broadsheet.cli import main; sys.exit(main())",
            "audit",
            "--follow",
            "-o",
            "json",
            "--limit",
            "1",
        ],
        stdout=subprocess.PIPE,
        env={**os.environ, "BROADSHEET_ENDPOINT": two_revisions},
        text=True,
    )
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["catalog_revision"] == "2"
        with Client(two_revisions) as client:
            client.delete_model("m")
        event = json.loads(process.stdout.readline())
        assert (event["catalog_revision"], event["method"]) == ("3", "DeleteModel")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        process.stdout.close()


@pytest.mark.usefixtures("two_revisions")
def test_diff_shows_changes_without_bookkeeping_fields(cli: Cli) -> None:
    assert cli("model", "register", "n", *SIMULATED) == 0
    assert cli("snapshot", "diff", "1") == 0
    assert cli.out.splitlines() == [
        "~ models/m",
        "    labels.token: (unset) -> [redacted]",
        "    revision: 1 -> 2",
        "    spec.scaling.max_replicas: 1 -> 4",
        "+ models/n",
        "1 added, 1 changed, from revision 1 to 3",
    ]
    assert cli("snapshot", "diff", "3", "2") == 0
    assert "- models/n" in cli.out
    assert cli("snapshot", "diff", "2", "2") == 0
    assert "same content" in cli.out
    assert cli("snapshot", "diff", "0", "1", "-o", "json") == 0
    (change,) = json.loads(cli.out)["changes"]
    assert (change["name"], change["kind"]) == ("models/m", "KIND_ADDED")
    assert cli("snapshot", "diff", "0", "9") == 1
    assert "REVISION_NOT_FOUND" in cli.err


@pytest.mark.usefixtures("two_revisions")
def test_rollback_shows_what_it_will_change_and_asks(cli: Cli) -> None:
    assert cli("snapshot", "rollback", "1") == 2
    assert "spec.scaling.max_replicas: 4 -> 1" in cli.err
    assert "--yes" in cli.err
    assert cli("snapshot", "rollback", "1", "--validate-only") == 0
    assert "1 resources would change; nothing was written" in cli.out
    assert cli("snapshot", "rollback", "1", "--yes") == 0
    assert "spec.scaling.max_replicas: 4 -> 1" in cli.err
    assert cli.out == "rolled back to revision 1: 1 resources changed; catalog revision 3\n"
    assert cli("snapshot", "rollback", "1", "--yes", "-o", "json") == 0
    assert json.loads(cli.out) == {"catalog_revision": "3", "change_count": "0"}
    assert cli("audit", "--limit", "1") == 0
    assert "RollbackCatalog" in cli.out
    assert "snapshots/1" in cli.out
    assert cli("snapshot", "rollback", "9", "--yes") == 1
    assert "REVISION_NOT_FOUND" in cli.err
