"""`broadsheet fleet` against a real control plane: enrolment, lag and history."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.enrollment import TOKEN_PREFIX
from tests.stream.cli_world import SIMULATED, Cli
from tests.stream.client_world import running_control_plane, scripted_data_plane


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with running_control_plane(tmp_path) as address:
        monkeypatch.setenv("BROADSHEET_ENDPOINT", address)
        yield address


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.mark.usefixtures("endpoint")
def test_a_data_plane_is_enrolled_and_its_token_shown_once(cli: Cli) -> None:
    assert cli("fleet", "enroll", "gpu-7", "--validate-only") == 0
    assert (cli.out, cli.err) == ("", "dataPlanes/gpu-7 would get a token\n")
    assert cli("fleet", "enroll", "gpu-7", "--ttl", "2h") == 0
    assert cli.out.startswith(TOKEN_PREFIX)
    assert len(cli.out.splitlines()) == 1, "stdout can go into a file"
    assert "can be enrolled until" in cli.err
    assert cli("fleet", "enroll", "gpu-7", "-o", "json") == 0
    assert json.loads(cli.out)["enrollment_token"].startswith(TOKEN_PREFIX)
    assert cli("fleet", "list") == 0
    assert cli.out.splitlines()[1].split()[:3] == ["gpu-7", "never", "no"]
    assert cli("fleet", "get", "gpu-7") == 0
    assert "a token can be used until" in cli.out
    assert TOKEN_PREFIX not in cli.out
    assert cli("fleet", "remove", "gpu-7") == 0
    assert cli("fleet", "get", "gpu-7") == 1


@pytest.mark.usefixtures("endpoint")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gpu-7", "--ttl", "soon"), "--ttl"),
        (("gpu-7", "--ttl", "8d"), "ttl"),
        (("gpu-7", "--ttl", "1s"), "ttl"),
        (("GPU 7",), "name"),
    ],
)
def test_an_enrolment_that_makes_no_sense_is_a_usage_error(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    assert cli("fleet", "enroll", *arguments) == 2
    assert words in cli.err


def test_lag_and_history_are_shown(cli: Cli, endpoint: str) -> None:
    assert cli("model", "register", "m", *SIMULATED) == 0
    with scripted_data_plane(endpoint, "gpu-1"):
        assert cli("fleet", "wait", "1", "--timeout", "20") == 0
        assert cli("fleet", "list") == 0
        header, row = cli.out.splitlines()
        assert row[header.index("LAG") :].split()[0] == "none"
    with scripted_data_plane(endpoint, "gpu-2", rejects="DOOMED"):
        assert cli("fleet", "wait", "1", "--timeout", "20", "--data-plane", "gpu-2") == 1
    assert cli("model", "register", "n", *SIMULATED) == 0
    assert cli("fleet", "list") == 0
    assert "1 rev, 0 s" in cli.out
    assert cli("fleet", "history", "gpu-1") == 0
    header, newest, *_ = cli.out.splitlines()
    assert header.split() == ["TIME", "AGO", "SERVING", "PHASE", "REJECTED", "REASON"]
    assert newest[header.index("SERVING") :].split()[:4] == ["1", "·", newest.split("·")[1].split()[0], "ACTIVE"]
    assert cli("fleet", "history", "gpu-2", "-o", "json") == 0
    (change,) = json.loads(cli.out)["changes"]
    assert (change["phase"], change["reason"], change["rejected"]["revision"]) == ("PHASE_REJECTED", "DOOMED", "1")
    assert cli("fleet", "get", "gpu-2") == 0
    (rejected,) = [line for line in cli.out.splitlines() if line.startswith("Rejected")]
    assert rejected.split()[1] == "1"
    assert rejected.rstrip().endswith(" s ago")
