"""The commands on waves: the policy, and the rollout."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stream.cli_world import SIMULATED, Cli
from tests.stream.client_world import running_control_plane

POLICY = """
waves:
  - labels: {labels: {tier: canary}}
    soak: 10m
  - percent: 25
health_limits: {failed: 1, error_percent: 0.5, disconnected: 2m}
"""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with running_control_plane(tmp_path) as address:
        monkeypatch.setenv("BROADSHEET_ENDPOINT", address)
        yield Cli(capsys)


def until_state(cli: Cli, wanted: str) -> None:
    for _ in range(200):
        assert cli("fleet", "rollout", "-o", "json") == 0
        if json.loads(cli.out)["state"] == f"STATE_{wanted}":
            return
        time.sleep(0.02)
    raise AssertionError(cli.out)


def test_a_policy_is_set_shown_and_cleared(cli: Cli, tmp_path: Path) -> None:
    assert cli("fleet", "policy", "get") == 0
    assert "no policy" in cli.out
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    assert cli("fleet", "policy", "set", "-f", str(file), "--validate-only") == 0
    assert cli.out == "fleetPolicy would be set; nothing was written: 2 waves\n"
    assert cli("fleet", "policy", "set", "-f", str(file)) == 0
    assert cli.out == "fleetPolicy set: 2 waves\n"
    assert cli("fleet", "policy", "get") == 0
    for text in ("tier=canary", "600 s", "25 %", "everyone else", "0.5 percent points", "120 s"):
        assert text in cli.out
    assert cli("fleet", "policy", "get", "-o", "json") == 0
    etag = json.loads(cli.out)["etag"]
    file.write_text("waves: [{percent: 0}, {soak: soon}]\n")
    assert cli("fleet", "policy", "set", "-f", str(file)) == 2
    assert "waves[1].soak" in cli.err
    file.write_text("waves: [{percent: 101}]\n")
    assert cli("fleet", "policy", "set", "-f", str(file)) == 2
    assert "waves[0].percent" in cli.err
    assert cli("fleet", "policy", "clear") == 0
    assert cli.out == "fleetPolicy set: no waves\n"
    file.write_text(POLICY)
    assert cli("fleet", "policy", "set", "-f", str(file), "--etag", etag) == 1
    assert "ETAG_MISMATCH" in cli.err


def test_a_rollout_is_shown_halted_resumed_and_forced(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    assert cli("fleet", "rollout") == 0
    assert "IDLE" in cli.out
    assert cli("fleet", "halt") == 1
    assert "ROLLOUT_NOT_IN_STATE" in cli.err
    assert cli("fleet", "policy", "set", "-f", str(file)) == 0
    assert cli("model", "register", "m", *SIMULATED) == 0
    # No data plane has the labels of the first wave.
    until_state(cli, "ROLLING")
    assert cli("fleet", "rollout") == 0
    assert "1 of 3" in cli.out
    assert cli("fleet", "halt", "--reason", "it is Friday", "--validate-only") == 0
    assert "nothing was written" in cli.err
    assert cli("fleet", "halt", "--reason", "it is Friday") == 0
    assert "OPERATOR: it is Friday" in cli.out
    assert cli("fleet", "resume", "-o", "json") == 0
    assert json.loads(cli.out)["state"] == "STATE_ROLLING"
    assert cli("fleet", "resume") == 1
    assert cli("fleet", "force", "-o", "yaml") == 0
    assert "STATE_IDLE" in cli.out
    assert cli("fleet", "rollout") == 0
    assert "Rolled out" not in cli.out
