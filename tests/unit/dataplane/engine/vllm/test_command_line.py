"""The flags that vLLM is started with. That it starts is tested end to end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from google.protobuf import json_format

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.engine.vllm.command_line import command_line
from dataplane.errors import EngineStartError


def entry(uri: str, **spec: object) -> snapshot_pb2.ModelEntry:
    made = snapshot_pb2.ModelEntry(name="models/m", served_name="public")
    json_format.ParseDict({"source": {"uri": uri}, **spec}, made.revision.spec)
    return made


def engine(args: Mapping[str, object]) -> dict[str, object]:
    return {"engine": {"kind": "KIND_VLLM", "args": dict(args)}}


def test_source_is_a_directory_of_this_node_or_a_repository(tmp_path: Path) -> None:
    directory = tmp_path / "my model"
    directory.mkdir()
    assert command_line(entry(f"file://{directory}"))[:2] == ["--model", str(directory)]
    repository = entry("hf://org/name")
    repository.revision.spec.source.revision = "abc123"
    line = command_line(repository)
    assert line[:2] == ["--model", "org/name"]
    assert line[line.index("--revision") + 1] == "abc123"


def test_a_model_that_sleeps_is_started_with_sleep_mode() -> None:
    sleeps = entry("hf://org/name", scaling={"idle": "IDLE_SLEEP"})
    assert "--enable-sleep-mode" in command_line(sleeps)
    assert "--enable-sleep-mode" not in command_line(entry("hf://org/name"))


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match="no such directory") as caught:
        command_line(entry((tmp_path / "nowhere").as_uri()))
    assert caught.value.reason == "SOURCE_NOT_FOUND"


@pytest.mark.parametrize(
    ("args", "flags"),
    [
        ({"max_model_len": 2048}, ["--max-model-len=2048"]),
        ({"gpu-memory-utilization": 0.5}, ["--gpu-memory-utilization=0.5"]),
        ({"enforce_eager": True}, ["--enforce-eager"]),
        ({"enable_prefix_caching": False}, ["--no-enable-prefix-caching"]),
        ({"seed": None}, []),
        ({"chat_template": "--not-a-flag"}, ["--chat-template=--not-a-flag"]),
        ({"override_generation_config": {"top_k": 1}}, ['--override-generation-config={"top_k": 1}']),
        ({"allowed_origins": ["*", "x"]}, ["--allowed-origins", "*", "x"]),
    ],
)
def test_arguments_become_flags(args: Mapping[str, object], flags: list[str]) -> None:
    bare = command_line(entry("hf://org/name", **engine({})))
    assert command_line(entry("hf://org/name", **engine(args)))[len(bare) :] == flags


def test_infinity_is_refused() -> None:
    broken = entry("hf://org/name")
    broken.revision.spec.engine.args.update({"seed": 1})
    broken.revision.spec.engine.args.fields["seed"].number_value = 1e400
    with pytest.raises(EngineStartError, match="Infinity") as caught:
        command_line(broken)
    assert caught.value.reason == "ENGINE_ARGS_INVALID"


def test_lora_is_enabled_only_for_models_with_adapters() -> None:
    assert "--enable-lora" not in command_line(entry("hf://org/name"))
    line = command_line(entry("hf://org/name", lora={"maxAdapters": 3, "maxRank": 32}))
    assert line[line.index("--max-loras") + 1] == "3"
    assert line[line.index("--max-lora-rank") + 1] == "32"


def test_parallel_sizes_become_flags() -> None:
    line = command_line(entry("hf://org/name", resources={"tensorParallelSize": 4, "pipelineParallelSize": 2}))
    assert line[line.index("--tensor-parallel-size") + 1] == "4"
    assert line[line.index("--pipeline-parallel-size") + 1] == "2"
    assert model_pb2.Resources().tensor_parallel_size == 0
