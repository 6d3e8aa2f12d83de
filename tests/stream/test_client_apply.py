"""`broadsheet apply` and `export` against a real control plane."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from broadsheet import applying
from broadsheet.applying import Action, Step
from broadsheet.client import Client
from broadsheet.errors import InvalidArgument
from broadsheet.types import Engine, ModelSpec, RegisterModelRequest, RegisterModelResponse
from tests.adapter_directories import write_adapter
from tests.stream.cli_world import Cli
from tests.stream.client_world import running_control_plane

MODEL = "model_id: {id}\nspec: {{engine: {{kind: SIMULATED}}, lora: {{max_rank: 8}}, scaling: {{max_replicas: {n}}}}}\n"


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with running_control_plane(tmp_path) as address:
        monkeypatch.setenv("BROADSHEET_ENDPOINT", address)
        yield address


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A model, its adapter and a route to both, in the reverse of the order of registration."""
    directory = tmp_path / "registry"
    (directory / "below").mkdir(parents=True)
    write_adapter(tmp_path / "lora")
    route = "route_id: a\nserved_name: best\nspec: {targets: [{resource: models/m}, {resource: models/m/adapters/x}]}\n"
    adapter = "parent: models/m\nadapter_id: x\nsource: {uri: file:../lora}\n"
    (directory / "1.yaml").write_text(f"{route}---\n{adapter}")
    (directory / "below" / "2.yml").write_text(MODEL.format(id="m", n=1))
    return directory


def revision(endpoint: str) -> int:
    with Client(endpoint) as client:
        return client.fetch_snapshot().position.revision


def test_apply_makes_what_files_declare_and_then_nothing_more(cli: Cli, endpoint: str, files: Path) -> None:
    assert cli("apply", "-f", str(files), "--dry-run") == 0
    created = ["+ models/m", "+ models/m/adapters/x", "+ routes/a"]
    assert cli.out.splitlines() == [*created, "3 would change"]
    assert cli("apply", "-f", str(files), "--dry-run", "--exit-code") == 1
    assert revision(endpoint) == 0
    assert cli("apply", "-f", str(files)) == 0
    assert cli.out.splitlines() == [*created, "3 applied"]
    assert revision(endpoint) == 3
    assert cli("apply", "-f", str(files)) == 0
    assert "nothing to do" in cli.out
    assert cli("apply", "-f", str(files), "--dry-run", "--exit-code") == 0
    assert revision(endpoint) == 3


def test_apply_shows_which_fields_change(cli: Cli, endpoint: str, files: Path) -> None:
    cli("apply", "-f", str(files))
    (files / "below" / "2.yml").write_text(MODEL.format(id="m", n=4) + "labels: {team: x}\n")
    assert cli("apply", "-f", str(files)) == 0
    assert cli.out.splitlines() == [
        "~ models/m",
        "    spec.scaling.max_replicas: 1 -> 4",
        "    labels.team: (unset) -> x",
        "1 applied",
    ]
    assert revision(endpoint) == 4
    assert cli("apply", "-f", str(files), "-o", "json") == 0
    assert json.loads(cli.out) == {"applied": True, "changes": []}


def test_other_bytes_in_the_same_files_are_a_change(cli: Cli, endpoint: str, files: Path) -> None:
    cli("apply", "-f", str(files))
    write_adapter(files.parent / "lora", fill=b"\7")
    assert cli("apply", "-f", str(files)) == 0
    assert cli.out.splitlines() == ["~ models/m/adapters/x", "    revision: 1 -> 2", "1 applied"]


def test_a_wrong_file_stops_the_apply_and_all_errors_are_shown(cli: Cli, endpoint: str, files: Path) -> None:
    (files / "3.yaml").write_text("model_id: n\nspec:\n  engin: {}\n---\nfoo: 1\n---\n" + MODEL.format(id="m", n=0))
    (files / "4.yaml").write_text(MODEL.format(id="m", n=2))
    (files / "5.yaml").write_text("a: [")
    (files / "6.yaml").write_text("model_id: o\nvalidate_only: true\nspec: {engine: {kind: SIMULATED}}\n")
    assert cli("apply", "-f", str(files)) == 2
    assert f"{files}/3.yaml:3 spec.engin: unknown field (did you mean engine?)" in cli.err
    assert f"{files}/3.yaml:5: expected exactly one of model_id, adapter_id, route_id" in cli.err
    assert f"{files}/3.yaml:8 spec.scaling.max_replicas: got 0: must be greater than or equal to 1" in cli.err
    assert f"{files}/below/2.yml:1: models/m is declared twice; first at {files}/4.yaml:1" in cli.err
    assert f"{files}/5.yaml: not YAML at line 1" in cli.err
    assert f"{files}/6.yaml:2 validate_only: is no property of a resource" in cli.err
    assert revision(endpoint) == 0
    assert cli("apply", "-f", str(files / "nowhere")) == 2
    assert cli("apply", "-f", str(files / "below"), "-f", str(files / "none")) == 2


def test_a_resource_that_the_control_plane_rejects_stops_the_apply(cli: Cli, endpoint: str, files: Path) -> None:
    (files / "3.yaml").write_text(MODEL.format(id="n", n=1) + "served_name: taken\n")
    cli("apply", "-f", str(files / "3.yaml"))
    (files / "3.yaml").write_text(MODEL.format(id="o", n=1) + "served_name: taken\n")
    assert cli("apply", "-f", str(files)) == 1
    assert f"{files}/3.yaml:1 models/o:" in cli.err
    assert "SERVED_NAME_TAKEN" in cli.err
    reserved = "model_id: o\nspec: {engine: {args: {port: 1}}, source: {uri: hf://a/b}}\n"
    (files / "3.yaml").write_text(reserved)
    assert cli("apply", "-f", str(files)) == 2
    assert 'spec.engine.args["port"]' in cli.err
    assert revision(endpoint) == 1


def test_prune_deletes_only_what_this_owner_applied(cli: Cli, endpoint: str, files: Path) -> None:
    cli("model", "register", "by-hand", "--engine", "SIMULATED")
    other = files.parent / "other.yaml"
    other.write_text(MODEL.format(id="theirs", n=1))
    assert cli("apply", "-f", str(other), "--owner", "them") == 0
    assert cli("apply", "-f", str(files)) == 0
    (files / "1.yaml").unlink()
    assert cli("apply", "-f", str(files)) == 0
    assert "nothing to do" in cli.out
    assert cli("apply", "-f", str(files), "--prune", "--dry-run") == 0
    assert cli.out.splitlines() == ["- routes/a", "- models/m/adapters/x", "2 would change"]
    assert cli("apply", "-f", str(files), "--prune") == 0
    assert cli("apply", "-f", str(files), "--prune-all") == 0
    assert cli.out.splitlines() == ["- models/by-hand", "- models/theirs", "2 applied"]
    with Client(endpoint) as client:
        assert [model.name for model in client.list_models()] == ["models/m"]


def test_prune_stops_before_it_breaks_resources_of_others(cli: Cli, endpoint: str, files: Path) -> None:
    cli("apply", "-f", str(files))
    cli("adapter", "register", "m", "by-hand", "--source", str(files.parent / "lora"))
    (files / "1.yaml").unlink()
    (files / "below" / "2.yml").write_text(MODEL.format(id="n", n=1))
    before = revision(endpoint)
    assert cli("apply", "-f", str(files), "--prune") == 1
    assert "models/m is not declared and would be deleted, but models/m/adapters/by-hand refers to it" in cli.err
    assert revision(endpoint) == before


def test_an_export_applies_without_a_difference(cli: Cli, endpoint: str, files: Path) -> None:
    cli("apply", "-f", str(files))
    cli("model", "register", "by-hand", "--engine", "SIMULATED", "--engine-arg", "a=[1, 2.5, x]", "--label", "k=yes")
    before = revision(endpoint)
    exported = files.parent / "exported"
    assert cli("export", "-d", str(exported)) == 0
    assert (exported / "models" / "m" / "adapters" / "x.yaml").exists()
    assert cli("apply", "-f", str(exported), "--prune-all", "--dry-run", "--exit-code") == 0
    assert cli("apply", "-f", str(exported)) == 0
    assert revision(endpoint) == before
    assert cli("export") == 0
    documents = [document for document in yaml.safe_load_all(cli.out) if document]
    assert [document.get("model_id") for document in documents] == ["by-hand", "m", None, None]
    # Another registry becomes the same from it.
    assert cli("apply", "-f", str(exported / "models"), "--prune-all") == 0
    assert cli("model", "delete", "m", "--force") == 0
    assert cli("apply", "-f", str(exported)) == 0
    assert cli("apply", "-f", str(exported), "--dry-run", "--exit-code") == 0


def creations(*requests: RegisterModelRequest) -> list[Step]:
    """Steps that register these models."""
    return [Step(action=Action.CREATE, name=f"models/{item.model_id}", request=item) for item in requests]


def model(model_id: str, served_name: str = "", **spec: ModelSpec) -> RegisterModelRequest:
    """A model that is registered without files."""
    simulated = ModelSpec(engine=Engine(kind=Engine.KIND_SIMULATED))
    return RegisterModelRequest(model_id=model_id, served_name=served_name, spec=spec.get("spec", simulated))


def test_steps_that_do_not_refer_to_each_other_are_carried_out_together(endpoint: str) -> None:
    all_here = threading.Barrier(applying.IN_FLIGHT_MAX, timeout=20)

    class Meeting(Client):
        def register_model(self, *arguments: Any, **fields: Any) -> RegisterModelResponse:
            all_here.wait()
            return super().register_model(*arguments, **fields)

    steps = creations(*(model(f"m{number:03}") for number in range(applying.IN_FLIGHT_MAX)))
    done: list[Step] = []
    with Meeting(endpoint) as client:
        applying.carry_out(client, steps, on_done=done.append)
    assert done == steps, "in their order"
    assert revision(endpoint) == len(steps)


def test_a_step_that_needs_what_one_before_it_frees_is_repeated_after_it(endpoint: str) -> None:
    tried = threading.Event()

    class Slow(Client):
        def register_model(self, model_id: str, **fields: Any) -> RegisterModelResponse:
            if model_id == "a":
                tried.wait(20)
            try:
                return super().register_model(model_id, **fields)
            finally:
                if model_id == "b":
                    tried.set()

    with Client(endpoint) as client:
        client.register_model("a", spec=model("a").spec, served_name="best")
    done: list[Step] = []
    with Slow(endpoint) as client:
        applying.carry_out(client, creations(model("a", "old"), model("b", "best")), on_done=done.append)
        assert [step.name for step in done] == ["models/a", "models/b"]
        assert client.get_model("b").served_name == "best"


def test_after_a_step_that_failed_no_other_is_begun(endpoint: str) -> None:
    class Counting(Client):
        begun = 0

        def register_model(self, model_id: str, **fields: Any) -> RegisterModelResponse:
            Counting.begun += 1
            if model_id != "wrong":
                time.sleep(0.2)
            return super().register_model(model_id, **fields)

    steps = creations(model("wrong", spec=ModelSpec()), *(model(f"m{number}") for number in range(200)))
    with Counting(endpoint) as client, pytest.raises(InvalidArgument):
        applying.carry_out(client, steps, on_done=lambda step: None)
    assert Counting.begun <= 2 * applying.IN_FLIGHT_MAX
    assert revision(endpoint) == Counting.begun - 1
