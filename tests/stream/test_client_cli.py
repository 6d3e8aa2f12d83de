"""The command line against a real control plane: what it prints, where, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from broadsheet.client import Client
from controlplane.access.permissions import Role
from tests.adapter_directories import write_adapter
from tests.stream.access_world import TOKENS, serving_guarded
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
def test_register_list_get_revisions_delete(cli: Cli) -> None:
    assert cli("model", "register", "m", *SIMULATED, "--min-replicas", "0", "--engine-arg", "ttft_ms=5") == 0
    assert cli.out == "models/m revision 1 registered; catalog revision 1\n"
    assert cli("model", "register", "m", *SIMULATED, "--engine-arg", "ttft_ms=5") == 0
    assert "exists already" in cli.out
    assert cli("model", "list") == 0
    assert cli.out.splitlines()[1].split()[:3] == ["m", "m", "1"]
    assert cli("model", "get", "m") == 0
    assert "ttft_ms: 5" in cli.out
    assert "min_replicas: 0" in cli.out
    assert cli("model", "revisions", "m") == 0
    assert "current" in cli.out
    assert cli("model", "delete", "m", "--validate-only") == 0
    assert cli("model", "delete", "m") == 0
    assert cli("model", "get", "n") == 1
    assert "models/n does not exist" in cli.err
    assert "MODEL_NOT_FOUND" in cli.err
    assert cli.out == ""


SERVED_NAMES = {
    "model get Qwen/Qwen2.5-7B": "models/qwen",
    "model get models/Qwen/Qwen2.5-7B": "models/qwen",
    "model delete Qwen/Qwen2.5-7B": "models/qwen",
    "model update Qwen/Qwen2.5-7B --label a=b": "models/qwen",
    "model rollback Qwen/Qwen2.5-7B 1": "models/qwen",
    "model revisions Qwen/Qwen2.5-7B": "models/qwen",
    "model warm Qwen/Qwen2.5-7B": "models/qwen",
    "model rollout status Qwen/Qwen2.5-7B": "models/qwen",
    "adapter register Qwen/Qwen2.5-7B a --source /x": "models/qwen",
    "adapter list Qwen/Qwen2.5-7B": "models/qwen",
    "adapter get Qwen/Qwen2.5-7B/pirate": "models/qwen",
    "adapter delete Qwen/Qwen2.5-7B/pirate": "models/qwen",
    "adapter get qwen:pirate": "models/qwen/adapters/pirate",
    "route set r --target Qwen/Qwen2.5-7B": "models/qwen",
    "route get The/Route": "routes/route",
    "audit --resource Qwen/Qwen2.5-7B": "models/qwen",
    "audit --resource models/Qwen/Qwen2.5-7B/adapters/pirate": "models/qwen",
    "audit --resource routes/The/Route": "routes/route",
    "model get meta/llama-3": "models/llama",
    "model delete chat": "routes/route-2",
    "adapter get meta/llama-3": "models/llama",
    "route get plain": "models/plainly",
}
"""Commands with a served name in place of an id, and what is served under that name."""


@pytest.mark.usefixtures("endpoint")
def test_a_served_name_in_place_of_an_id_is_told_what_has_it(cli: Cli, tmp_path: Path) -> None:
    lora, served = write_adapter(tmp_path / "lora"), ("--served-name", "Qwen/Qwen2.5-7B")
    assert cli("model", "register", "qwen", *SIMULATED, *served, "--lora-max-rank", "8") == 0
    assert cli("adapter", "register", "qwen", "pirate", "--served-name", "qwen:pirate", "--source", str(lora)) == 0
    assert cli("route", "set", "route", "--served-name", "The/Route", "--target", "qwen") == 0
    assert cli("route", "set", "route-2", "--served-name", "chat", "--target", "qwen") == 0
    assert cli("model", "register", "plainly", *SIMULATED, "--served-name", "plain") == 0
    assert cli("model", "register", "llama", *SIMULATED, "--served-name", "meta/llama-3") == 0
    for command, holder in SERVED_NAMES.items():
        assert cli(*command.split()) in (1, 2), command
        assert f"is the served name of {holder}" in cli.err.replace("\n", " "), command
        assert "regex" not in cli.err, command


@pytest.mark.usefixtures("endpoint")
def test_adapters(cli: Cli, tmp_path: Path) -> None:
    lora = write_adapter(tmp_path / "lora")
    assert cli("model", "register", "m", *SIMULATED, "--lora-max-rank", "8") == 0
    assert cli("adapter", "register", "m", "a", "--source", str(lora)) == 0
    assert cli("adapter", "list") == 0
    assert cli.out.splitlines()[1].split()[:2] == ["m/a", "m:a"]
    assert cli("adapter", "get", "m/a") == 0
    assert "adapter_model.safetensors" in cli.out
    assert cli("model", "delete", "m") == 1
    assert "--force" in cli.err
    assert cli("adapter", "delete", "m/a") == 0
    assert cli("adapter", "list", "m") == 0
    assert "no adapters" in cli.out


@pytest.mark.usefixtures("endpoint")
def test_lists_that_are_filtered_and_sorted(cli: Cli, tmp_path: Path) -> None:
    for name in ("m", "n", "o"):
        label = "env=dev" if name == "n" else "env=prod"
        assert cli("model", "register", name, *SIMULATED, "--lora-max-rank", "8", "--label", label) == 0
    assert cli("model", "list", "--filter", "labels.env = prod", "--order-by", "create_time desc") == 0
    assert [line.split()[0] for line in cli.out.splitlines()[1:]] == ["o", "m"]
    lora = str(write_adapter(tmp_path / "lora"))
    assert cli("adapter", "register", "m", "a", "--source", lora, "--label", "team=x") == 0
    assert cli("adapter", "list", "--filter", "labels.team = x", "--order-by", "served_name") == 0
    assert cli.out.splitlines()[1].split()[0] == "m/a"
    assert cli("adapter", "list", "m", "--filter", "NOT labels:team") == 0
    assert "no adapters" in cli.out
    assert cli("model", "list", "--filter", "labels.env = prod and owner = me") == 2
    assert "filter: at character 19: got `and`; must be AND, OR or the end" in " ".join(cli.err.split())
    assert cli("model", "list", "--order-by", "age") == 2
    message = "order_by: got `age`; must be a field: name, served_name, create_time, update_time"
    assert message in " ".join(cli.err.split())


@pytest.mark.usefixtures("endpoint")
def test_routes(cli: Cli, tmp_path: Path) -> None:
    assert cli("route", "list") == 0
    assert "no routes" in cli.out
    for model in ("a", "b"):
        assert cli("model", "register", model, *SIMULATED) == 0
    chat = ("route", "set", "chat", "--target", "models/a=90", "--target", "b=10")
    assert cli(*chat, "--fallback", "a=queue_full", "--sticky", "header:X-Team", "--validate-only") == 0
    assert cli.out == "routes/chat revision 1 would be set; nothing was written\n"
    assert cli(*chat, "--fallback", "a=queue_full", "--sticky", "header:X-Team") == 0
    assert cli.out == "routes/chat revision 1 set; catalog revision 3\n"
    assert cli("route", "get", "chat") == 0
    assert "90.0 %" in cli.out
    assert "QUEUE_FULL" in cli.out
    assert "UNAVAILABLE" not in cli.out
    assert "header x-team" in cli.out
    assert cli(*chat) == 0
    assert cli("route", "revisions", "chat") == 0
    assert [line.split()[0] for line in cli.out.splitlines()[1:]] == ["2", "1"]
    assert cli("route", "list") == 0
    assert cli.out.splitlines()[1].split()[:5] == ["chat", "chat", "2", "a=90,", "b=10"]
    assert cli("snapshot", "show") == 0
    assert "routes/chat" in cli.out
    assert cli("model", "delete", "a") == 1
    assert "REFERRED_TO_BY_ROUTES" in cli.err
    assert cli("route", "set", "loop", "--target", "routes/chat") == 2
    assert "a route cannot refer to a route" in cli.err
    assert cli("route", "set", "chat", "--target", "a=x") == 2
    file = tmp_path / "route.yaml"
    file.write_text("route_id: alias\nspec: {targets: [{resource: models/a}], sticky: {user: true}}\n")
    assert cli("route", "set", "-f", str(file)) == 0
    assert cli("--output", "json", "route", "get", "alias") == 0
    assert json.loads(cli.out)["revision"]["spec"]["sticky"] == {"user": True}
    assert cli("route", "delete", "alias") == 0
    assert cli("route", "get", "alias") == 1
    assert "ROUTE_NOT_FOUND" in cli.err


@pytest.mark.usefixtures("endpoint")
def test_stdout_has_only_json(cli: Cli) -> None:
    assert cli("--output", "json", "model", "register", "m", *SIMULATED) == 0
    response = json.loads(cli.out)
    assert (response["created"], response["model"]["name"]) == (True, "models/m")
    for command in (["model", "list"], ["model", "get", "m"], ["model", "revisions", "m"], ["adapter", "list"]):
        assert cli(*command, "-o", "json") == 0
        json.loads(cli.out)
    for command in (["snapshot", "list"], ["snapshot", "show"], ["snapshot", "show", "0"], ["fleet", "list"]):
        assert cli(*command, "--output", "json") == 0
        json.loads(cli.out)
    assert cli("model", "get", "m", "-o", "yaml") == 0
    assert yaml.safe_load(cli.out)["revision"]["spec"]["engine"]["kind"] == "KIND_SIMULATED"
    assert cli("model", "get", "nope", "-o", "json") == 1
    assert cli.out == ""


@pytest.mark.usefixtures("endpoint")
def test_snapshots_show_their_entries(cli: Cli) -> None:
    cli("model", "register", "m", *SIMULATED)
    assert cli("snapshot", "show") == 0
    assert "models/m" in cli.out
    assert cli("snapshot", "show", "-o", "json") == 0
    (entry,) = json.loads(cli.out)["entries"]
    assert entry["content"]["served_name"] == "m"
    assert cli("snapshot", "list", "--limit", "1") == 0
    assert len(cli.out.splitlines()) == 2
    assert cli("snapshot", "show", "7") == 1
    assert "REVISION_NOT_FOUND" in cli.err


@pytest.mark.usefixtures("endpoint")
def test_a_yaml_file_registers(cli: Cli, tmp_path: Path) -> None:
    spec = tmp_path / "model.yaml"
    spec.write_text(
        "model_id: m\nspec: {engine: {kind: SIMULATED}, lora: {max_rank: 8}}\ncard: {display_name: The M}\n"
    )
    assert cli("model", "register", "-f", str(spec)) == 0
    assert cli("model", "get", "m") == 0
    assert "The M" in cli.out
    write_adapter(tmp_path / "lora")
    adapter = tmp_path / "adapter.yaml"
    adapter.write_text("parent: models/m\nadapter_id: a\nsource: {uri: file:./lora}\n")
    assert cli("adapter", "register", "-f", str(adapter)) == 0


def test_a_bad_file_is_exit_code_2_and_nothing_is_sent(cli: Cli, endpoint: str, tmp_path: Path) -> None:
    spec = tmp_path / "model.yaml"
    spec.write_text("model_id: m\nspec:\n  engin: {}\n")
    assert cli("model", "register", "-f", str(spec)) == 2
    assert f"{spec} is not valid; nothing was sent" in cli.err
    assert "spec.engin (line 3): unknown field (did you mean engine?)" in cli.err
    assert cli("--endpoint", "127.0.0.1:1", "model", "register", "-f", str(spec)) == 2
    with Client(endpoint) as client:
        assert client.fetch_snapshot().position.revision == 0


@pytest.mark.usefixtures("endpoint")
@pytest.mark.parametrize(
    "arguments",
    [
        ("model", "register"),
        ("model", "register", "m", "--engine-arg", "x"),
        ("model", "register", "m", *SIMULATED, "--engine-arg", "x=1", "--engine-arg", "x=2"),
        ("model", "register", "m", *SIMULATED, "--label", "team"),
        ("model", "register", "m", "--engine", "VLM"),
        ("model", "register", "m", *SIMULATED, "--min-replicas", "-1"),
        ("model", "register", "m", *SIMULATED, "--min-replicas", "2", "--max-replicas", "1"),
        ("model", "register", "m", *SIMULATED, "--idle-after", "soon"),
        ("model", "register", "m", "--source", "org/name"),
        ("model", "register", "", *SIMULATED),
        ("model", "register", "M", *SIMULATED),
        ("model", "register", "m" * 64, *SIMULATED),
        ("model", "register", "m", "--file", "x.yaml"),
        ("model", "register", "m", *SIMULATED, "--engine-arg", "port=1", "--output", "xml"),
        ("model", "get", "Not An Id"),
        ("adapter", "register", "m"),
        ("adapter", "get", "m"),
        ("snapshot", "show", "-1"),
        ("snapshot", "show", "x"),
        ("fleet", "wait", "1", "--timeout", "-1"),
        ("nonsense",),
        ("model", "list", "--endpoint", "http://127.0.0.1:1"),
    ],
)
def test_bad_input_is_exit_code_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli(*arguments) == 2
    assert cli.out == ""
    assert cli.err
    cli("snapshot", "list", "-o", "json")
    assert len(json.loads(cli.out)["snapshots"]) == 1


def test_an_unreachable_control_plane_is_exit_code_3_with_a_hint(cli: Cli) -> None:
    assert cli("--endpoint", "127.0.0.1:1", "model", "list") == 3
    assert "cannot reach the control plane at 127.0.0.1:1" in cli.err
    assert "broadsheet controlplane" in cli.err
    assert cli.out == ""


def test_an_option_after_the_subcommand_overrides_one_before(cli: Cli, endpoint: str) -> None:
    assert cli("--endpoint", "127.0.0.1:1", "model", "list", "--endpoint", endpoint) == 0
    assert cli("--output", "yaml", "model", "list", "--output", "json") == 0
    assert json.loads(cli.out) == {"models": []}


@pytest.mark.usefixtures("endpoint")
def test_keys_are_created_shown_once_listed_and_revoked(cli: Cli) -> None:
    assert cli("key", "create", "alice", "--allow", "smollm2*", "--requests-per-minute", "60", "--label", "team=a") == 0
    key = cli.out.strip()
    assert key.startswith("bs-")
    assert "this once" in cli.err
    assert cli("key", "create", "bob", "-o", "json", "--expires-in-days", "1") == 0
    assert json.loads(cli.out)["key"].startswith("bs-")
    assert cli("key", "list") == 0
    assert "smollm2*" in cli.out
    assert key not in cli.out
    assert cli("key", "get", "alice") == 0
    assert "team=a" in cli.out
    assert cli("key", "create", "alice") == 1
    assert "API_KEY_EXISTS" in cli.err
    assert cli("key", "create", "x", "--allow", "[a]") == 2
    assert "limits.allowed_served_names[0]" in cli.err
    assert cli("key", "revoke", "alice", "--validate-only") == 0
    assert cli("key", "revoke", "alice") == 0
    assert cli("key", "list") == 0
    assert "REVOKED" in cli.out
    assert cli("snapshot", "show") == 0
    assert "apiKeys/bob" in cli.out
    assert cli("snapshot", "show", "-o", "json") == 0
    assert json.loads(cli.out)["entries"][0]["content"]["revoked"] is True


def test_revoke_waits_until_connected_data_planes_refuse_the_key_and_names_those_that_do_not(
    cli: Cli, endpoint: str
) -> None:
    for key in ("a", "b", "c"):
        assert cli("key", "create", key) == 0
    with (
        scripted_data_plane(endpoint, "takes", rejects="DOOMED", takes_revocations=True),
        scripted_data_plane(endpoint, "serves"),
    ):
        assert cli("key", "revoke", "a", "--wait", "--timeout", "20") == 0
        assert "all connected data planes refuse apiKeys/a" in cli.err
        with scripted_data_plane(endpoint, "old", rejects="DOOMED"):
            assert cli("key", "revoke", "b", "--wait", "--timeout", "0.5") == 1
            assert "these do not say that they refuse apiKeys/b: old" in cli.err
            assert cli("fleet", "get", "old") == 0
            assert "0, lacks 2" in cli.out
            assert cli("fleet", "list") == 0
            assert "REVOKED" in cli.out
        assert cli("key", "revoke", "c", "--wait", "--validate-only") == 0
        assert cli("key", "revoke", "c", "--wait", "-o", "json") == 0
        assert json.loads(cli.out)["revocations_sequence"] == "3"
        assert "not connected, and told when they connect: old" in cli.err


def test_a_token_may_come_from_flag_file_or_environment(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_guarded(tmp_path) as address:
        at = ("--endpoint", address)
        assert cli("model", "list", *at) == 1
        assert "TOKEN_MISSING" in cli.err
        assert "--token" in cli.err
        assert cli("model", "list", *at, "--token", TOKENS[Role.VIEWER]) == 0
        assert cli("--token", TOKENS[Role.VIEWER], "model", "list", *at) == 0
        file = tmp_path / "token"
        file.write_text(TOKENS[Role.VIEWER])
        assert cli("model", "list", *at, "--token-file", str(file)) == 0
        assert cli("model", "list", *at, "--token-file", str(tmp_path / "none")) == 2
        assert "No such file" in cli.err
        monkeypatch.setenv("BROADSHEET_TOKEN", TOKENS[Role.VIEWER])
        assert cli("model", "list", *at) == 0
        assert cli("model", "delete", "m", *at) == 1
        assert "PERMISSION_DENIED" in cli.err
        monkeypatch.delenv("BROADSHEET_TOKEN")
        monkeypatch.setenv("BROADSHEET_TOKEN_FILE", str(file))
        assert cli("model", "list", *at) == 0
