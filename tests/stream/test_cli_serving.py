"""The commands on what serves: rollouts, `--wait`, warming and the fleet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from broadsheet.types import ResourceState
from tests.stream.cli_world import SIMULATED, Cli
from tests.stream.client_world import running_control_plane, scripted_data_plane, state


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with running_control_plane(tmp_path) as address:
        monkeypatch.setenv("BROADSHEET_ENDPOINT", address)
        yield address


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.mark.usefixtures("endpoint")
def test_rollouts(cli: Cli, tmp_path: Path) -> None:
    register = ("model", "register", "m", *SIMULATED, "--canary", "5:1h", "--canary", "50")
    assert cli(*register) == 0
    assert cli("model", "rollout", "status", "m") == 0
    assert "put in place at once" in cli.out
    assert cli(*register, "--cpus", "0.5") == 0
    assert cli("model", "rollout", "status", "m") == 0
    assert "1 of 2" in cli.out
    assert "5 %" in cli.out
    assert cli("model", "rollout", "pause", "m") == 0
    assert cli.out == "the rollout of m is PAUSED\n"
    assert cli("model", "rollout", "pause", "m") == 1
    assert "ROLLOUT_NOT_IN_STATE" in cli.err
    assert cli("model", "rollout", "resume", "m", "--validate-only") == 0
    assert cli("model", "rollout", "abort", "m") == 0
    assert cli("--output", "json", "model", "rollout", "status", "m") == 0
    assert json.loads(cli.out)["reason"] == "ABORTED"
    assert cli("model", "get", "m") == 0
    assert "REVERTED" in cli.out
    assert cli("model", "register", "m", *SIMULATED, "--canary", "x") == 2
    assert cli("model", "register", "m", *SIMULATED, "--canary", "100") == 2
    file = tmp_path / "model.yaml"
    steps = "[{percent: 10, hold: 5m}]"
    file.write_text(
        f"model_id: m\nspec: {{engine: {{kind: SIMULATED}}}}\nrollout_policy: {{strategy: CANARY, steps: {steps}}}\n"
    )
    assert cli("--output", "json", "model", "register", "-f", str(file)) == 0
    assert json.loads(cli.out)["model"]["rollout_policy"]["steps"] == [{"percent": 10, "hold": "300s"}]


@pytest.mark.usefixtures("endpoint")
def test_replace_cold_sets_the_rollout_policy(cli: Cli) -> None:
    assert cli("model", "register", "m", *SIMULATED, "--replace-cold") == 0
    assert cli("model", "get", "m", "-o", "json") == 0
    policy = json.loads(cli.out)["rollout_policy"]
    assert (policy["strategy"], policy["require_warm"]) == ("STRATEGY_REPLACE", False)
    assert cli("model", "register", "m", *SIMULATED, "--replace-cold", "--canary", "5") == 2


def test_wait_shows_progress_and_ends_with_the_state(cli: Cli, endpoint: str) -> None:
    with scripted_data_plane(endpoint) as plane:
        plane.report(state("models/m", ResourceState.RESOURCE_STATE_READY))
        assert cli("model", "register", "m", *SIMULATED, "--wait", "--wait-timeout", "20", "-o", "json") == 0
        assert "models/m: READY on local" in cli.err
        json.loads(cli.out)
        assert cli("model", "list") == 0
        assert "READY" in cli.out
        assert cli("fleet", "list") == 0
        assert "connected" in cli.out
        assert cli("fleet", "wait", "--timeout", "20") == 0
        assert "ACTIVE" in cli.out


def test_wait_fails_with_the_reason(cli: Cli, endpoint: str) -> None:
    failed = ResourceState.RESOURCE_STATE_FAILED
    with scripted_data_plane(endpoint) as plane:
        plane.report(state("models/m", failed, reason="ENGINE_FAILED", message="[rank0] no such file: weights"))
        assert cli("model", "register", "m", *SIMULATED, "--wait", "--wait-timeout", "20") == 1
        assert "models/m is FAILED on dataPlanes/local: [rank0] no such file: weights" in cli.err
        assert "reason: ENGINE_FAILED" in cli.err
        assert cli("model", "get", "m") == 0
        assert "ENGINE_FAILED" in cli.out
        assert cli("fleet", "get", "local") == 0
        assert "[rank0] no such file: weights" in cli.out
        assert cli("fleet", "get", "nope") == 1


@pytest.mark.usefixtures("endpoint")
def test_wait_without_a_data_plane_says_what_to_start(cli: Cli) -> None:
    assert cli("model", "register", "m", *SIMULATED, "--wait", "--wait-timeout", "0.5") == 1
    assert "no data plane has ever connected" in cli.err
    assert "broadsheet dataplane" in cli.err
    assert cli("fleet", "wait", "--timeout", "0.2") == 1


def test_warm_waits_until_the_model_is_ready(cli: Cli, endpoint: str) -> None:
    cli("model", "register", "m", *SIMULATED)
    with scripted_data_plane(endpoint) as plane:
        plane.report(state("models/m", ResourceState.RESOURCE_STATE_IDLE))
        assert cli("model", "warm", "m", "--wait", "--wait-timeout", "1") == 1
        assert "dataPlanes/local is IDLE" in cli.err
        plane.report(state("models/m", ResourceState.RESOURCE_STATE_READY))
        assert cli("model", "warm", "m", "--for", "1h", "--wait", "--wait-timeout", "20") == 0
        assert "models/m: READY on local" in cli.err
        assert cli.out.startswith("models/m warmed until 20")
        assert cli.out.endswith(" UTC; catalog revision 3\n")
        plane.report(state("models/m", ResourceState.RESOURCE_STATE_FAILED, reason="OUT_OF_MEMORY", message="too big"))
        assert cli("model", "warm", "m", "--wait", "--wait-timeout", "20") == 1
        assert "reason: OUT_OF_MEMORY" in cli.err


@pytest.mark.usefixtures("endpoint")
def test_warming_is_shown_and_ended(cli: Cli) -> None:
    cli("model", "register", "m", *SIMULATED)
    assert cli("model", "warm", "m", "--validate-only") == 0
    assert "nothing was written" in cli.out
    assert cli("model", "warm", "m") == 0
    assert cli("model", "get", "m") == 0
    assert "Warm until" in cli.out
    assert cli("model", "warm", "m", "--stop") == 0
    assert cli.out == "models/m not warmed any longer; catalog revision 3\n"
    assert cli("model", "get", "m") == 0
    assert "Warm until" not in cli.out
    assert cli("model", "warm", "n") == 1
    assert "MODEL_NOT_FOUND" in cli.err
    for wrong in (
        ("--for", "soon"),
        ("--for", "8d"),
        ("--for", "200h"),
        ("--stop", "--for", "1m"),
        ("--stop", "--wait"),
    ):
        assert cli("model", "warm", "m", *wrong) == 2


def test_a_rejected_revision_is_exit_code_1(cli: Cli, endpoint: str) -> None:
    cli("model", "register", "m", *SIMULATED)
    with scripted_data_plane(endpoint, rejects="BAD_DIGEST"):
        assert cli("fleet", "wait", "1", "--data-plane", "local", "--timeout", "20") == 1
        assert "REJECTED" in cli.out
        assert "BAD_DIGEST" in cli.out
